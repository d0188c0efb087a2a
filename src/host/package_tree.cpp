#include "host/package_tree.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <sstream>

#include "base/format.h"
#include "base/fs.h"
#include "base/log.h"
#include "base/process.h"
#include "crypto/hash.h"
#include "host/apt_sources.h"
#include "host/work_directory.h"

namespace dstack::host {

namespace fs = std::filesystem;
using base::Code;
using base::fail;
using base::format;
using base::Result;

namespace {

// Goes into the key: change it when the arguments below change.
constexpr const char* k_recipe_version = "2";
// Dates that packages' scripts write, such as the age of passwords (2024-01-01).
constexpr const char* k_epoch = "SOURCE_DATE_EPOCH=1704067200";

constexpr const char* k_archive = "tree.tar.zst";  // mmdebstrap packs by the name's end
constexpr std::size_t k_max_status = 64 * 1024 * 1024;

constexpr std::array k_excluded{"/usr/share/doc/*",
                                "/usr/share/man/*",
                                "/usr/share/info/*",
                                "/usr/share/locale/*",
                                "/usr/share/bash-completion/*",
                                "/usr/share/zsh/*",
                                "/usr/share/fish/*",
                                "/usr/share/lintian/*"};

bool is_package_name(std::string_view name) {
  return name.size() >= 2 && std::ranges::all_of(name, [](char c) {
           return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '+' || c == '-' || c == '.';
         });
}

std::string join(const std::vector<std::string>& parts, std::string_view separator) {
  std::string out;
  for (const auto& part : parts) {
    out += (out.empty() ? "" : std::string(separator)) + part;
  }
  return out;
}

Result<std::vector<std::string>> source_lines(const std::string& mirror) {
  if (!mirror.empty()) {
    const bool clean =
        std::ranges::none_of(mirror, [](unsigned char c) { return c <= 0x20 || c == '[' || c == ']'; });
    if (!clean || mirror.find("://") == std::string::npos) {
      return fail(Code::invalid_argument,
                  format("'{}' is not the URL of a mirror", base::escape_control(mirror)),
                  "give one such as http://mirror.example/debian");
    }
    return std::vector{format("deb {} {} main", mirror, k_guest_suite)};
  }
  DS_TRY(const auto mirrors, mirrors_from_apt("/etc/apt"));
  std::vector<std::string> lines{format("deb {} {} main", mirrors.archive, k_guest_suite),
                                 format("deb {} {}-updates main", mirrors.archive, k_guest_suite)};
  if (!mirrors.security.empty()) {
    lines.push_back(format("deb {} {}-security main", mirrors.security, k_guest_suite));
  }
  return lines;
}

// The proxy, dates and retries that this machine's apt is configured with.
std::vector<std::string> apt_options() {
  std::vector<std::string> out;
  const auto dump =
      base::run({.argv = {"apt-config", "dump", "Acquire::http", "Acquire::https", "Acquire::Retries",
                          "Acquire::Check-Valid-Until", "Acquire::Check-Date"}});
  if (!dump || dump->exit_code != 0) {
    return out;
  }
  std::istringstream lines(dump->out);
  for (std::string line; std::getline(lines, line);) {
    if (line.ends_with("\";") && !line.ends_with("\"\";")) {
      out.push_back("--aptopt=" + line.substr(0, line.size() - 1));
    }
  }
  return out;
}

bool can_mount() {
  const auto output = base::run({.argv = {"unshare", "--mount", "--pid", "--mount-proc", "--fork", "true"}});
  return output && output->exit_code == 0;
}

std::string explain(const base::Output& output) {
  // mmdebstrap's own complaint is the last "E:" line; apt's and dpkg's come before it.
  std::string last;
  std::istringstream lines(output.err);
  for (std::string line; std::getline(lines, line);) {
    if (line.starts_with("E:") || line.starts_with("Err:")) {
      last += (last.empty() ? "" : "; ") + line;
    }
  }
  return last.empty() ? "no reason given" : base::escape_control(last.substr(0, 800));
}

Result<> run_mmdebstrap(const PackageTreeRequest& request, const std::vector<std::string>& sources,
                        const fs::path& work) {
  if (::geteuid() != 0) {
    return fail(Code::permission, "building from packages needs root", "run it as root");
  }
  if (!base::find_tool("mmdebstrap") || !base::find_tool("zstd")) {
    return fail(Code::not_found, "mmdebstrap or zstd is not installed",
                "apt-get install mmdebstrap debian-archive-keyring zstd");
  }
  // A mount namespace of its own: whatever happens to mmdebstrap, its mounts of /proc, /sys and /dev in the
  // tree go with it, and removing the tree removes nothing else.
  const bool mounts = can_mount();
  base::Command command{
      .argv = {"mmdebstrap", "--mode=root", "--variant=essential", "--format=tar", "--architectures=amd64",
               "--include=" + join(request.packages, ",")},
      // INITRD=No: the initramfs is ours, Debian's would be built for nothing.
      // It builds the tree below TMPDIR and packs it from there.
      .environment = {k_epoch, "INITRD=No", "DEBIAN_FRONTEND=noninteractive", "TMPDIR=" + work.string()},
      .timeout = std::chrono::minutes(40)};
  for (const char* path : k_excluded) {
    command.argv.push_back(format("--dpkgopt=path-exclude={}", path));
  }
  for (auto& option : apt_options()) {
    command.argv.push_back(std::move(option));
  }
  if (mounts) {
    const auto begin = command.argv.begin();
    command.argv.insert(begin, {"setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--pid",
                                "--mount-proc", "--fork", "--kill-child"});
  } else {
    command.argv.insert(command.argv.end(), {"--skip=check/canmount", "--skip=chroot/mount"});
  }
  command.argv.insert(command.argv.end(), {k_guest_suite, (work / k_archive).string()});
  command.argv.insert(command.argv.end(), sources.begin(), sources.end());
  DS_TRY(const auto output, base::run(command));
  if (output.exit_code != 0) {
    base::Error error{Code::image_build, "mmdebstrap failed", explain(output),
                      "see that the mirror is reachable and has this release, or give another with --mirror"};
    return fail(std::move(error));
  }
  return {};
}

}  // namespace

std::string list_packages(std::string_view dpkg_status) {
  std::vector<std::string> lines;
  std::string name;
  std::istringstream in{std::string(dpkg_status)};
  for (std::string line; std::getline(in, line);) {
    if (line.starts_with("Package: ")) {
      name = line.substr(9);
    } else if (line.starts_with("Version: ")) {
      lines.push_back(name + " " + line.substr(9) + "\n");
    }
  }
  std::ranges::sort(lines);
  return join(lines, "");
}

Result<PackageTree> make_package_tree(const PackageTreeRequest& request) {
  auto sorted = request;
  std::ranges::sort(sorted.packages);
  sorted.packages.erase(std::ranges::unique(sorted.packages).begin(), sorted.packages.end());
  for (const auto& package : sorted.packages) {
    if (!is_package_name(package)) {
      return fail(Code::invalid_argument,
                  format("'{}' is not a package name", base::escape_control(package)));
    }
  }
  DS_TRY(const auto sources, source_lines(request.mirror));
  const auto key = crypto::sha256_hex(
      format("{}\n{}\n{}\n", k_recipe_version, join(sorted.packages, " "), join(sources, "\n")));
  const auto trees = request.cache / "trees";
  const auto directory = trees / key.substr(0, 24);
  PackageTree tree{directory / k_archive, directory / "packages.txt", true};
  std::error_code error;
  DS_CHECK(base::make_dirs(trees));
  DS_TRY(const auto lock, base::FileLock::acquire(trees / format(".{}.lock", directory.filename().string())));
  if (request.use_cache && fs::exists(tree.packages, error)) {
    return tree;
  }
  tree.from_cache = false;
  DS_TRY(auto work, WorkDirectory::make_fixed(trees, "tree-" + directory.filename().string()));
  DS_CHECK(run_mmdebstrap(sorted, sources, work.path()));
  DS_TRY(const auto status,
         base::run_checked({.argv = {"tar", "--extract", "--zstd", "--to-stdout", "--file",
                                     (work.path() / k_archive).string(), "./var/lib/dpkg/status"},
                            .timeout = std::chrono::minutes(5),
                            .output_limit = k_max_status}));
  DS_CHECK(base::write_file_atomic(work.path() / "packages.txt", list_packages(status.out)));
  DS_CHECK(base::remove_tree(directory));
  fs::rename(work.path(), directory, error);
  if (error) {
    return fail(Code::io, format("cannot write {}: {}", directory.string(), error.message()));
  }
  work.release();
  return tree;
}

Result<> unpack_tree(const PackageTree& tree, const fs::path& to) {
  DS_CHECK(base::make_dirs(to));
  DS_CHECK(base::run_checked({.argv = {"tar", "--extract", "--zstd", "--numeric-owner", "--same-owner",
                                       "--same-permissions", "--xattrs", "--xattrs-include=*", "--file",
                                       tree.archive.string(), "--directory", to.string()},
                              .timeout = std::chrono::minutes(10)}));
  return {};
}

Result<> remove_traces(const fs::path& root) {
  // The second group is what systemd-tmpfiles makes, which it does only where it can mount.
  for (const char* path : {"etc/.pwd.lock",
                           "etc/passwd-",
                           "etc/group-",
                           "etc/shadow-",
                           "etc/gshadow-",
                           "etc/subuid-",
                           "etc/subgid-",
                           "etc/resolv.conf",
                           "etc/hostname",
                           "etc/machine-id",
                           "etc/apt",
                           "var/cache",
                           "var/log",
                           "var/lib/apt",
                           "var/lib/dpkg",
                           "var/lib/ucf",
                           "var/backups",
                           "run",
                           "tmp",
                           "var/tmp",
                           "dev",
                           "etc/mtab",
                           "etc/vconsole.conf",
                           "etc/default/locale",
                           "etc/credstore",
                           "etc/credstore.encrypted",
                           "root",
                           "var/lib/systemd",
                           "var/lib/private"}) {
    DS_CHECK(base::remove_tree(root / path));
  }
  std::error_code error;
  for (const auto& [path, mode] : {std::pair{"var/cache", 0755},
                                   {"var/log", 0755},
                                   {"run", 0755},
                                   {"tmp", 01777},
                                   {"var/tmp", 01777},
                                   {"dev", 0755},
                                   {"root", 0700}}) {
    fs::create_directories(root / path, error);
    fs::permissions(root / path, static_cast<fs::perms>(mode), error);
    if (error) {
      return fail(Code::io, format("cannot make {}: {}", (root / path).string(), error.message()));
    }
  }
  return {};
}

}  // namespace dstack::host
