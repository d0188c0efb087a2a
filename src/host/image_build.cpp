#include "host/image_build.h"

#include <algorithm>
#include <chrono>
#include <nlohmann/json.hpp>
#include <sstream>
#include <vector>

#include "base/format.h"
#include "base/fs.h"
#include "base/process.h"
#include "crypto/hash.h"
#include "host/file_digest.h"
#include "host/image.h"
#include "host/initramfs.h"
#include "host/package_tree.h"
#include "host/volume.h"
#include "host/work_directory.h"

namespace dstack::host {

using base::Code;
using base::fail;
using base::format;

namespace {

constexpr std::uint64_t k_block = 4096;
constexpr const char* k_zero_uuid = "00000000-0000-0000-0000-000000000000";
constexpr std::size_t k_max_program = 512 * 1024 * 1024;

// Lines without comments and blanks.
Result<std::vector<std::string>> read_list(const fs::path& path) {
  DS_TRY(const auto text, base::read_file(path));
  std::vector<std::string> out;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    const auto word = base::trim(std::string_view(line).substr(0, line.find('#')));
    if (!word.empty()) {
      out.emplace_back(word);
    }
  }
  return out;
}

// Replaces the name: packages share some files by hard links.
Result<> put_file(const fs::path& path, std::string_view data, mode_t mode) {
  DS_CHECK(base::make_dirs(path.parent_path()));
  DS_CHECK(base::remove_file(path));
  return base::write_file_atomic(path, data, {.mode = mode, .force_mode = true});
}

std::unexpected<base::Error> build_error(const std::string& what, const std::string& fix = {}) {
  return fail(Code::image_build, what, fix);
}

class Builder {
 public:
  explicit Builder(const BuildImage& what) : m_what(what), m_started(Clock::now()) {}
  Result<BuiltImage> run();

 private:
  using Clock = std::chrono::steady_clock;

  Result<> check();
  Result<> prepare_root();
  Result<> add_recipe_files();
  Result<> add_boot_modules();
  Result<> extract_vmlinux();
  Result<> write_initramfs();
  Result<> write_root_disk();
  Result<> write_metadata();
  Result<> write_sums();
  void report(const std::string& stage, const std::string& detail);

  const BuildImage& m_what;
  Clock::time_point m_started;
  std::string m_name;
  std::string m_kernel;  // "6.12.0-cloud-amd64"
  PackageTree m_tree;
  fs::path m_root;                                                   // the root file system's tree
  fs::path m_stage;                                                  // the image directory in the making
  std::vector<std::pair<std::string, std::string>> m_early_modules;  // file name, bytes; in loading order
  std::string m_root_hash;
  std::uint64_t m_root_size = 0;
};

void Builder::report(const std::string& stage, const std::string& detail) {
  if (m_what.report) {
    const std::chrono::duration<double> elapsed = Clock::now() - m_started;
    m_what.report(format("[{:5.1f}s] {:<10} {}", elapsed.count(), stage, detail));
  }
}

Result<> Builder::check() {
  m_name = m_what.name.empty() ? "dstack-" + m_what.version : m_what.name;
  DS_CHECK(check_image_name(m_name));
  std::string missing;
  for (const auto& [tool, package] : {std::pair{"mksquashfs", "squashfs-tools"},
                                      {"veritysetup", "cryptsetup-bin"},
                                      {"xz", "xz-utils"},
                                      {"zstd", "zstd"}}) {
    if (!base::find_tool(tool)) {
      missing += (missing.empty() ? "" : " ") + std::string(package);
    }
  }
  if (!missing.empty()) {
    return build_error("tools for building an image are missing", format("apt-get install {}", missing));
  }
  std::error_code error;
  for (const char* program : {"dstack-init", "dstack-guest"}) {
    if (!fs::is_regular_file(m_what.programs / program, error)) {
      return build_error(format("there is no {} in {}", program, m_what.programs.string()),
                         "build it, or name the directory with --programs");
    }
  }
  if (!fs::is_regular_file(m_what.recipe / "packages.list", error)) {
    return build_error(format("there is no image recipe in {}", m_what.recipe.string()),
                       "name the directory with --recipe");
  }
  return {};
}

Result<> Builder::add_recipe_files() {
  const auto source = m_what.recipe / "root";
  std::error_code error;
  for (fs::recursive_directory_iterator it(source, error); !error && it != fs::recursive_directory_iterator();
       it.increment(error)) {
    if (!it->is_regular_file(error)) {
      continue;
    }
    DS_TRY(const auto text, base::read_file(it->path()));
    // Modes come from the contents, because a copy of the recipe may have lost them.
    const mode_t mode = text.starts_with("#!") ? 0755 : 0644;
    DS_CHECK(put_file(m_root / it->path().lexically_relative(source), text, mode));
  }
  if (error) {
    return build_error(format("cannot read the recipe: {}", error.message()));
  }
  return {};
}

Result<> Builder::add_boot_modules() {
  const auto modules = m_root / "usr/lib/modules" / m_kernel;
  DS_TRY(const auto dep, base::read_file(modules / "modules.dep"));
  DS_TRY(const auto builtin, base::read_file(modules / "modules.builtin"));
  const ModuleTable table(dep, builtin);
  DS_TRY(const auto early_names, read_list(m_what.recipe / "modules.initramfs"));
  DS_TRY(auto known, table.insertion_order(early_names));
  for (const auto& path : known) {
    DS_TRY(auto bytes, read_module(modules / path));
    m_early_modules.emplace_back(module_name(path) + ".ko", std::move(bytes));
  }
  for (const auto& [recipe, list_name] : {std::pair{"modules.boot", "list"}, {"modules.late", "list.late"}}) {
    DS_TRY(const auto names, read_list(m_what.recipe / recipe));
    DS_TRY(const auto order, table.insertion_order(names));
    std::string list;
    for (const auto& path : order) {
      if (std::ranges::find(known, path) != known.end()) {
        continue;
      }
      known.push_back(path);
      DS_TRY(const auto bytes, read_module(modules / path));
      const auto file = module_name(path) + ".ko";
      DS_CHECK(put_file(m_root / "usr/lib/dstack/modules" / file, bytes, 0644));
      list += file + "\n";
    }
    DS_CHECK(put_file(m_root / "usr/lib/dstack/modules" / list_name, list, 0644));
  }
  return {};
}

// The kernel inside bzImage. A hypervisor that emulates boots it faster than the packed one, which unpacks
// itself with emulated instructions.
Result<> Builder::extract_vmlinux() {
  DS_TRY(const auto image, base::read_file(m_stage / k_image_kernel, k_max_program));
  const auto payload = kernel_payload(base::as_bytes(image));
  if (!payload) {
    return build_error("the kernel is packed in an unknown way");
  }
  const auto packed = m_stage.parent_path() / (std::string("vmlinux.") + payload->tool);
  DS_CHECK(base::write_file_atomic(packed, base::as_text(payload->data)));
  DS_TRY(auto output, base::run_checked({.argv = {payload->tool, "--decompress", "--stdout", packed.string()},
                                         .timeout = std::chrono::minutes(2),
                                         .output_limit = k_max_program}));
  return base::write_file_atomic(m_stage / k_image_vmlinux, output.out);
}

Result<> Builder::prepare_root() {
  DS_CHECK(unpack_tree(m_tree, m_root));
  std::error_code error;
  for (fs::directory_iterator it(m_root / "boot", error); !error && it != fs::directory_iterator();
       it.increment(error)) {
    const auto name = it->path().filename().string();
    if (name.starts_with("vmlinuz-")) {
      m_kernel = name.substr(8);
    }
  }
  if (m_kernel.empty()) {
    return build_error("the packages hold no kernel", "add linux-image-cloud-amd64 to packages.list");
  }
  fs::copy_file(m_root / "boot" / ("vmlinuz-" + m_kernel), m_stage / k_image_kernel, error);
  if (error) {
    return build_error(format("cannot copy the kernel: {}", error.message()));
  }
  DS_CHECK(extract_vmlinux());
  DS_CHECK(add_boot_modules());
  DS_CHECK(remove_traces(m_root));
  DS_TRY(const auto removals, read_list(m_what.recipe / "remove.list"));
  for (const auto& removal : removals) {
    const fs::path path(removal);
    if (path.is_absolute() || removal.find("..") != std::string::npos) {
      return build_error(format("remove.list: '{}' is not a path below the root", removal));
    }
    DS_CHECK(base::remove_tree(m_root / path));
  }
  for (const char* directory : {"proc", "sys", "dev", "run", "tmp", "var", "root", "home", "mnt", "dstack"}) {
    DS_CHECK(base::make_dirs(m_root / directory));
  }
  DS_CHECK(add_recipe_files());
  DS_TRY(const auto guest, base::read_file(m_what.programs / "dstack-guest", k_max_program));
  DS_CHECK(put_file(m_root / "usr/bin/dstack-guest", guest, 0755));
  return put_file(m_root / "usr/lib/dstack/version", m_what.version + "\n", 0644);
}

Result<> Builder::write_initramfs() {
  CpioWriter cpio;
  for (const char* directory : {"dev", "proc", "sys", "newroot", "modules"}) {
    cpio.directory(directory);
  }
  std::string list;
  for (const auto& [file, bytes] : m_early_modules) {
    cpio.file("modules/" + file, 0644, bytes);
    list += file + "\n";
  }
  cpio.file("modules/list", 0644, list);
  DS_TRY(const auto init, base::read_file(m_what.programs / "dstack-init", k_max_program));
  cpio.file("init", 0755, init);
  return base::write_file_atomic(m_stage / k_image_initrd, cpio.finish());
}

Result<> Builder::write_root_disk() {
  const auto disk = m_stage / k_image_rootfs;
  DS_CHECK(base::run_checked(
      {.argv = {"mksquashfs", m_root.string(), disk.string(), "-comp", "lz4", "-all-root", "-all-time",
                "1704067200", "-mkfs-time", "1704067200", "-noappend", "-no-progress", "-xattrs"},
       .timeout = std::chrono::minutes(20)}));
  std::error_code error;
  m_root_size = (fs::file_size(disk, error) + k_block - 1) / k_block * k_block;
  if (!error) {
    fs::resize_file(disk, m_root_size, error);
  }
  if (error) {
    return build_error(format("cannot write the root disk: {}", error.message()));
  }
  // The tree is written behind the data, into the same file. BLAKE2b, since a boot hashes more than 100 MB
  // and a processor without SHA instructions, or an emulated one, does that in a third of the time of
  // SHA-256.
  DS_TRY(const auto output, base::run_checked({.argv = {"veritysetup",
                                                        "format",
                                                        "--salt",
                                                        std::string(64, '0'),
                                                        "--uuid",
                                                        k_zero_uuid,
                                                        "--hash",
                                                        "blake2b-512",
                                                        "--format",
                                                        "1",
                                                        "--data-block-size",
                                                        "4096",
                                                        "--hash-block-size",
                                                        "4096",
                                                        "--data-blocks",
                                                        std::to_string(m_root_size / k_block),
                                                        "--hash-offset",
                                                        std::to_string(m_root_size),
                                                        disk.string(),
                                                        disk.string()},
                                               .timeout = std::chrono::minutes(20)}));
  DS_TRY(m_root_hash, root_hash_in(output.out));
  // QEMU wants whole sectors; veritysetup writes whole blocks.
  return {};
}

Result<> Builder::write_metadata() {
  DS_TRY(const auto words, read_list(m_what.recipe / "cmdline"));
  std::string cmdline;
  for (const auto& word : words) {
    cmdline += word + " ";
  }
  cmdline += format("dstack.rootfs_hash={} dstack.rootfs_size={}", m_root_hash, m_root_size);
  const nlohmann::ordered_json metadata = {
      {"cmdline", cmdline},        {"kernel", k_image_kernel}, {"vmlinux", k_image_vmlinux},
      {"initrd", k_image_initrd},  {"rootfs", k_image_rootfs}, {"rootfs_hash", m_root_hash},
      {"version", m_what.version}, {"shared_ro", true},        {"is_dev", false},
  };
  return base::write_file_atomic(m_stage / k_image_metadata, metadata.dump(2) + "\n");
}

Result<> Builder::write_sums() {
  std::string sums;
  for (const char* name : {k_image_kernel, k_image_vmlinux, k_image_initrd, k_image_metadata}) {
    DS_TRY(const auto sum, sha256_file(m_stage / name));
    sums += format("{}  {}\n", sum, name);
  }
  DS_CHECK(base::write_file_atomic(m_stage / k_image_sums, sums));
  DS_CHECK(base::write_file_atomic(m_stage / k_image_digest, crypto::sha256_hex(sums) + "\n"));
  DS_TRY(const auto packages, base::read_file(m_tree.packages));
  return base::write_file_atomic(m_stage / k_image_packages, packages);
}

Result<BuiltImage> Builder::run() {
  DS_CHECK(check());
  DS_TRY(const auto packages, read_list(m_what.recipe / "packages.list"));
  DS_TRY(m_tree, make_package_tree({packages, m_what.cache, m_what.mirror, m_what.use_cache}));
  report("packages",
         format("{} named, {}", packages.size(), m_tree.from_cache ? "from the cache" : "fetched"));
  DS_CHECK(base::make_dirs(m_what.images));
  DS_TRY(const auto lock, base::FileLock::acquire(m_what.images / ".build.lock"));
  DS_TRY(const auto cache_lock, base::FileLock::acquire(m_what.cache / "trees/.root.lock"));
  DS_TRY(const auto stage, WorkDirectory::make_fixed(m_what.images, "build"));
  DS_TRY(const auto work, WorkDirectory::make_fixed(m_what.cache / "trees", "root"));
  m_stage = stage.path() / "image";
  m_root = work.path() / "root";
  DS_CHECK(base::make_dirs(m_stage));
  DS_CHECK(prepare_root());
  report("root", format("kernel {}", m_kernel));
  DS_CHECK(write_initramfs());
  report("initramfs", format("{} modules", m_early_modules.size()));
  DS_CHECK(write_root_disk());
  report("root disk", format("{} MiB, verity root {}…", m_root_size >> 20, m_root_hash.substr(0, 16)));
  DS_CHECK(write_metadata());
  DS_CHECK(write_sums());
  DS_TRY(auto built, publish_image(m_what, m_stage, m_name));
  report("image", format("{} {}, os_image_hash {}", built.directory.string(),
                         built.unchanged ? "was up to date" : "written", built.os_image_hash));
  return built;
}

}  // namespace

Result<BuiltImage> build_image(const BuildImage& what) {
  return Builder(what).run();
}

Result<BuiltImage> publish_image(const BuildImage& what, const fs::path& stage, const std::string& name) {
  DS_TRY(const auto staged, load_image(stage));
  BuiltImage built{name, what.images / name, staged.os_image_hash, false};
  if (const auto existing = load_image(built.directory);
      existing && existing->os_image_hash == built.os_image_hash && verify_image_digest(*existing)) {
    // The root disk is not covered by the digest: one that was damaged is put right here.
    const auto sum = sha256_file(built.directory / k_image_rootfs);
    const auto fresh = sha256_file(stage / k_image_rootfs);
    built.unchanged = sum && fresh && *sum == *fresh;
    if (built.unchanged) {
      return built;
    }
  }
  std::error_code error;
  if (!what.force) {
    DS_CHECK(check_replacement(what.use, what.images, name, built.os_image_hash,
                               "give it another name with --name, or replace it with --force and run "
                               "'dstackup install' again, which pins the new one"));
  }
  fs::permissions(stage, static_cast<fs::perms>(0755), error);
  // A broken image is replaced unasked, somebody's directory that is none is not.
  const bool replace = what.force || fs::exists(built.directory / k_image_metadata, error);
  if (auto adopted = adopt_directory(stage, built.directory, replace); !adopted) {
    auto problem = std::move(adopted).error();
    if (!replace && problem.code == Code::image_invalid) {
      problem.fix = "give it another name with --name, or replace it with --force";
    }
    return fail(std::move(problem), format("the image {} was not written", name));
  }
  return built;
}

}  // namespace dstack::host
