#include "host/cgroup.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <thread>

#include "base/fd.h"
#include "base/format.h"
#include "base/fs.h"

namespace dstack::host {

namespace fs = std::filesystem;
using base::Code;
using base::Result;

namespace {

// Innermost first, the directory itself last.
std::vector<fs::path> with_descendants(const std::string& path) {
  std::vector<fs::path> out;
  std::error_code error;
  for (fs::recursive_directory_iterator it(path, error), end; !error && it != end; it.increment(error)) {
    if (it->is_directory(error)) {
      out.insert(out.begin(), it->path());
    }
  }
  out.emplace_back(path);
  return out;
}

// Opens what the kernel made; never makes a file of that name.
bool write_text(const fs::path& path, std::string_view text) {
  const base::Fd fd(::open(path.c_str(), O_WRONLY | O_CLOEXEC));
  return fd && ::write(fd.get(), text.data(), text.size()) == static_cast<ssize_t>(text.size());
}

// Lets the children of a cgroup have a controller. Refused where the kernel or the owner of the tree does not
// want it, which shows when the limit is set.
void hand_down(const fs::path& cgroup, std::string_view controller) {
  write_text(cgroup / "cgroup.subtree_control", "+" + std::string(controller));
}

}  // namespace

Result<std::optional<std::string>> find_cgroup2_mount(const std::string& mounts_file) {
  constexpr std::size_t k_max_table = 16 * 1024 * 1024;
  DS_TRY(const std::string table, base::read_file(mounts_file, k_max_table));
  std::istringstream mounts(table);
  std::string line;
  while (std::getline(mounts, line)) {
    std::istringstream fields(line);
    std::string device, directory, type;
    fields >> device >> directory >> type;
    if (type != "cgroup2") {
      continue;
    }
    // Asked, not tried: a directory made to find out would stay if we were killed.
    if (::access(directory.c_str(), W_OK) == 0) {
      return directory;
    }
  }
  return std::nullopt;
}

Result<> Cgroup::create() const {
  return base::make_dirs(m_path, 0755);
}

bool Cgroup::exists() const {
  return ::access((m_path + "/cgroup.procs").c_str(), F_OK) == 0;
}

std::vector<pid_t> Cgroup::pids() const {
  std::vector<pid_t> out;
  for (const auto& directory : with_descendants(m_path)) {
    std::ifstream procs(directory / "cgroup.procs");
    for (pid_t pid = 0; procs >> pid;) {
      out.push_back(pid);
    }
  }
  return out;
}

bool Cgroup::populated() const {
  std::ifstream events(m_path + "/cgroup.events");
  for (std::string key, value; events >> key >> value;) {
    if (key == "populated") {
      return value != "0";
    }
  }
  return false;
}

std::vector<std::string> Cgroup::limit(const CgroupLimits& limits) const {
  constexpr unsigned k_period = 100'000;  // microseconds
  const fs::path here(m_path);
  std::vector<std::string> missing;
  const auto set = [&](bool wanted, const char* controller, const char* file, const std::string& value) {
    if (!wanted) {
      return;
    }
    hand_down(here.parent_path().parent_path(), controller);
    hand_down(here.parent_path(), controller);
    if (!write_text(here / file, value)) {
      missing.emplace_back(controller);
    }
  };
  set(limits.memory_bytes != 0, "memory", "memory.max", std::to_string(limits.memory_bytes));
  set(limits.tasks != 0, "pids", "pids.max", std::to_string(limits.tasks));
  set(limits.cpu_percent != 0, "cpu", "cpu.max",
      base::format("{} {}", std::uint64_t{limits.cpu_percent} * k_period / 100, k_period));
  return missing;
}

void Cgroup::signal_kill() const {
  write_text(m_path + "/cgroup.kill", "1");
}

Result<> Cgroup::kill(std::chrono::milliseconds limit) const {
  const auto deadline = std::chrono::steady_clock::now() + limit;
  const bool whole = write_text(m_path + "/cgroup.kill", "1");
  while (populated()) {
    if (!whole) {
      // Kernels before 5.14 have no cgroup.kill.
      for (const pid_t pid : pids()) {
        ::kill(pid, SIGKILL);
      }
    }
    if (std::chrono::steady_clock::now() > deadline) {
      return base::fail(
          Code::timeout, "processes in the cgroup " + m_path + " did not end after SIGKILL",
          "they are likely stuck in the kernel; look at them with 'cat " + m_path + "/cgroup.procs'");
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  return {};
}

Result<> Cgroup::remove() const {
  if (!exists()) {
    return {};
  }
  for (const auto& directory : with_descendants(m_path)) {
    // The kernel lets go of a just emptied cgroup a moment later.
    for (int attempt = 0; ::rmdir(directory.c_str()) != 0 && errno != ENOENT; ++attempt) {
      if (errno != EBUSY || attempt == 1000) {
        return base::fail_errno(Code::io, "cannot remove the cgroup " + directory.string(), errno);
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
  }
  return {};
}

}  // namespace dstack::host
