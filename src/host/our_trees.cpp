#include "host/our_trees.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <cerrno>
#include <cstdio>
#include <initializer_list>
#include <string_view>

#include "base/fs.h"
#include "host/image.h"
#include "host/volume.h"

namespace dstack::host {

using base::Result;

namespace {

constexpr std::string_view k_removed = ".removed-";

bool is_one_of(std::string_view name, std::initializer_list<std::string_view> names) {
  return std::ranges::find(names, name) != names.end();
}

bool starts_with_one_of(std::string_view name, std::initializer_list<std::string_view> starts) {
  return std::ranges::any_of(starts, [&](std::string_view start) { return name.starts_with(start); });
}

// Of an atomic write that a crash interrupted.
bool is_temporary(std::string_view name) {
  return name.starts_with('.') && name.ends_with(".tmp");
}

fs::file_type type_of(const fs::path& path) {
  std::error_code error;
  return fs::symlink_status(path, error).type();
}

bool is_plain_file(const fs::path& path) {
  return type_of(path) == fs::file_type::regular;
}

bool is_plain_directory(const fs::path& path) {
  return type_of(path) == fs::file_type::directory;
}

// 8-4-4-4-12 hex digits, as the VMM names its VMs.
bool is_uuid(std::string_view name) {
  constexpr std::string_view k_form = "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx";
  return std::ranges::equal(name, k_form, [](char c, char form) {
    return form == '-' ? c == '-' : std::isxdigit(static_cast<unsigned char>(c)) != 0;
  });
}

bool is_run_time(const fs::path& /*entry*/, std::string_view name) {
  return is_one_of(name, {"supervisor.sock", "supervisor.lock"});
}

bool is_log(const fs::path& entry, std::string_view name) {
  if (name.ends_with(".1")) {
    name.remove_suffix(2);
  }
  return is_plain_file(entry) && name.ends_with(".log") &&
         starts_with_one_of(name, {"supervisor.", "dstack-"});
}

bool is_vm(const fs::path& entry, std::string_view name) {
  if (is_plain_directory(entry)) {
    return is_uuid(name) || starts_with_one_of(name, {".new-", k_removed}) ||
           is_plain_file(entry / "vm-manifest.json");
  }
  return is_one_of(name, {".lock", ".accelerator.json", ".kvm-probe.rom"});
}

bool is_image(const fs::path& entry, std::string_view name) {
  if (is_plain_directory(entry)) {
    return name == ".build" || name.starts_with(k_removed) ||
           (name.starts_with('.') && name.ends_with(".staging")) || is_plain_file(entry / k_image_metadata);
  }
  return name == ".build.lock" ||
         (name.starts_with('.') && (name.ends_with(".partial") || name.ends_with(".partial.json")));
}

bool is_volume(const fs::path& entry, std::string_view name) {
  if (is_plain_directory(entry)) {
    return starts_with_one_of(name, {".add-", ".volume-", ".layer-", k_removed});
  }
  return is_one_of(name, {"index.json", ".lock"}) ||
         (name.ends_with(".img") && is_plain_file(entry) && read_volume_root(entry).has_value());
}

bool is_simulated_tee(const fs::path& /*entry*/, std::string_view name) {
  return is_one_of(name, {"seed", "root.pem"});
}

}  // namespace

bool is_our_entry(const Layout& layout, const fs::path& tree, const fs::path& entry) {
  using Test = bool (*)(const fs::path&, std::string_view);
  const std::array<std::pair<fs::path, Test>, 6> tests = {{{layout.run, is_run_time},
                                                           {layout.logs(), is_log},
                                                           {layout.vms(), is_vm},
                                                           {layout.images(), is_image},
                                                           {layout.volumes(), is_volume},
                                                           {layout.simulated_tee(), is_simulated_tee}}};
  const auto* test = std::ranges::find(tests, tree, &std::pair<fs::path, Test>::first);
  if (test == tests.end()) {
    return true;
  }
  const auto name = entry.filename().string();
  return (is_temporary(name) && is_plain_file(entry)) || test->second(entry, name);
}

Result<> remove_our_entry(const fs::path& entry) {
  const auto name = entry.filename().string();
  if (!is_plain_directory(entry) || name.starts_with('.')) {
    return base::remove_tree(entry);
  }
  const auto aside = entry.parent_path() / (std::string(k_removed) + name);
  DS_CHECK(base::remove_tree(aside));
  if (std::rename(entry.c_str(), aside.c_str()) != 0) {
    // A mount point, perhaps, or a full disk: as it is, then.
    return base::remove_tree(entry);
  }
  return base::remove_tree(aside);
}

}  // namespace dstack::host
