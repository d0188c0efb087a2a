#include "integration/host_sandbox.h"

#include <arpa/inet.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <iostream>
#include <sstream>

#include "base/fd.h"
#include "base/format.h"
#include "base/fs.h"
#include "host/cgroup.h"

namespace dstack::test {

namespace fs = std::filesystem;

namespace {

std::string g_problem = "not in a sandbox";
bool g_machine = false;
const fs::path k_stage = "/mnt";

std::string failed(const char* what) {
  return base::format("{}: {}", what, std::strerror(errno));
}

std::string bring_loopback_up() {
  const base::Fd fd(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  ifreq request = {};
  std::strcpy(request.ifr_name, "lo");
  request.ifr_flags = IFF_UP | IFF_RUNNING;
  return ::ioctl(fd.get(), SIOCSIFFLAGS, &request) == 0 ? "" : failed("loopback");
}

std::string mount_tmpfs(const fs::path& path) {
  return ::mount("tmpfs", path.c_str(), "tmpfs", 0, "mode=0755") == 0 ? "" : failed(path.c_str());
}

// The programs and the stand-in for QEMU where tests expect them.
std::string set_stage(const fs::path& programs) {
  if (auto problem = mount_tmpfs(k_stage); !problem.empty()) {
    return problem;
  }
  fs::create_directory(k_stage / "bin");
  for (const auto& entry : fs::directory_iterator(programs)) {
    const auto name = entry.path().filename();
    // The guest's own are not needed. Without debug information, since install copies and hashes them.
    if (name == "dstackup" || name == "dstack" || name == "dstack-auth" || name == "dstack-vmm") {
      const auto made = base::run_checked(
          {.argv = {"strip", "-o", (k_stage / "bin" / name).string(), entry.path().string()}});
      if (!made) {
        return made.error().what();
      }
    }
  }
  fs::create_directory(k_stage / "qemu");
  std::ofstream(stand_in_qemu()) << "#!/bin/sh\necho QEMU emulator version 8.2.0\n";
  fs::permissions(stand_in_qemu(), fs::perms(0755));
  return {};
}

std::string set_up(const fs::path& programs, const std::string& cgroup_mount, const fs::path& cgroup) {
  if (::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) {
    return failed("private mounts");
  }
  if (auto problem = set_stage(programs); !problem.empty()) {
    return problem;
  }
  const auto copied = base::run_checked({.argv = {"cp", "-a", "/etc", (k_stage / "etc").string()}});
  if (!copied) {
    return copied.error().what();
  }
  if (::mount((k_stage / "etc").c_str(), "/etc", nullptr, MS_BIND, nullptr) != 0) {
    return failed("/etc");
  }
  if (!cgroup.empty() && ::mount(cgroup.c_str(), cgroup_mount.c_str(), nullptr, MS_BIND, nullptr) != 0) {
    return failed("cgroups");
  }
  for (const char* path : {"/var", "/run", "/usr/local", "/tmp", "/srv"}) {
    if (auto problem = mount_tmpfs(path); !problem.empty()) {
      return problem;
    }
  }
  for (const char* path : {"/var/lib", "/var/cache", "/var/log", "/var/tmp", "/usr/local/bin"}) {
    fs::create_directory(path);
  }
  if (::mount("proc", "/proc", "proc", 0, nullptr) != 0) {
    return failed("/proc");
  }
  return bring_loopback_up();
}

// PID 1 of the sandbox: takes in orphans until the tests are done.
int reap_until(pid_t tests) {
  int status = 0;
  for (pid_t pid = 0; (pid = ::waitpid(-1, &status, 0)) > 0 || errno == EINTR;) {
    if (pid == tests) {
      return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    }
  }
  return 1;
}

std::string text_of(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

// On a machine that systemd runs, what changes there by itself: only what has our name counts.
bool is_systemds(const std::string& path) {
  static const std::array<const char*, 7> k_own = {
      "/run/systemd", "/run/log", "/run/user", "/run/udev", "/var/log", "/var/lib/systemd", "/sys/fs/cgroup"};
  return g_machine && path.find("dstack") == std::string::npos &&
         std::ranges::any_of(k_own, [&](const char* own) { return path.starts_with(own); });
}

// Where the machine sees what happens outside of it at this moment, and nothing of ours goes.
bool is_the_hosts(const std::string& path) {
  static const std::set<std::string> k_outside = {"/var/tmp", "/var/cache/apt", "/var/lib/apt",
                                                  "/var/lib/dpkg"};
  return g_machine && k_outside.contains(path);
}

// A process of a service that is not ours, or of systemd itself.
bool is_systemds(pid_t pid) {
  const auto cgroup = text_of(base::format("/proc/{}/cgroup", pid));
  return g_machine && cgroup.find("dstack") == std::string::npos &&
         (cgroup.find(":/system.slice/") != std::string::npos ||
          cgroup.find(":/init.scope") != std::string::npos);
}

void add_units(std::set<std::string>& out) {
  const std::array<std::vector<std::string>, 2> k_lists = {
      {{"systemctl", "list-units", "--all", "--plain", "--no-legend", "--no-pager"},
       {"systemctl", "list-unit-files", "--plain", "--no-legend", "--no-pager"}}};
  for (const auto& argv : k_lists) {
    const auto output = base::run({.argv = argv});
    std::istringstream lines(output ? output->out : "");
    for (std::string line; std::getline(lines, line);) {
      if (line.find("dstack") != std::string::npos) {
        out.insert("unit " + line);
      }
    }
  }
}

void add_files(const fs::path& root, std::set<std::string>& out) {
  std::error_code error;
  for (fs::recursive_directory_iterator it(root, error), end; !error && it != end; it.increment(error)) {
    if (is_the_hosts(it->path().string())) {
      it.disable_recursion_pending();
      continue;
    }
    struct stat info = {};
    if (::lstat(it->path().c_str(), &info) != 0 || is_systemds(it->path().string())) {
      continue;
    }
    auto line = base::format("{} {:o} {}:{}", it->path().string(), info.st_mode, info.st_uid, info.st_gid);
    if (S_ISREG(info.st_mode)) {
      line += base::format(" {} bytes, {}.{:09}", info.st_size, info.st_mtim.tv_sec, info.st_mtim.tv_nsec);
    }
    out.insert(line);
  }
}

// Living ones, without the caller and PID 1.
std::vector<pid_t> other_processes() {
  std::vector<pid_t> out;
  for (const auto& entry : fs::directory_iterator("/proc")) {
    const auto name = entry.path().filename().string();
    if (name.find_first_not_of("0123456789") != std::string::npos) {
      continue;
    }
    const auto stat = text_of(entry.path() / "stat");
    const auto state = stat.rfind(')');
    const auto pid = static_cast<pid_t>(std::stol(name));
    if (pid != 1 && pid != ::getpid() && state != std::string::npos && stat[state + 2] != 'Z') {
      out.push_back(pid);
    }
  }
  return out;
}

}  // namespace

int run_in_sandbox(const fs::path& programs, const std::function<int()>& tests) {
  std::cout << std::flush;
  const pid_t child = ::fork();
  if (child == 0) {
    const auto mount = host::find_cgroup2_mount().value();
    fs::path cgroup;  // stands for the root of all cgroups
    if (mount) {
      cgroup = fs::path(*mount) / base::format("dstack-test-{}", ::getpid());
      std::error_code ignored;
      fs::create_directory(cgroup, ignored);
    }
    if (::geteuid() != 0 || ::unshare(CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC) != 0) {
      g_problem = failed("no namespaces of its own");
      ::_exit(tests());
    }
    const pid_t init = ::fork();
    if (init == 0) {
      g_problem = set_up(programs, mount.value_or(""), cgroup);
      const pid_t worker = ::fork();
      if (worker == 0) {
        const int code = tests();
        std::cout << std::flush;
        ::_exit(code);
      }
      ::_exit(reap_until(worker));
    }
    ::_exit(reap_until(init));
  }
  const int code = reap_until(child);
  if (const auto mount = host::find_cgroup2_mount().value()) {
    (void)host::Cgroup(*mount + base::format("/dstack-test-{}", child)).remove();
  }
  return code;
}

int run_in_machine(const fs::path& programs, const std::function<int()>& tests) {
  g_machine = true;
  g_problem = set_stage(programs);
  return tests();
}

const std::string& sandbox_problem() {
  return g_problem;
}

fs::path sandbox_programs() {
  return k_stage / "bin";
}

fs::path stand_in_qemu() {
  return k_stage / "qemu/qemu-system-x86_64";
}

std::set<std::string> host_snapshot(const std::vector<fs::path>& extra) {
  std::set<std::string> out;
  for (const char* root : {"/etc", "/var", "/run", "/usr/local"}) {
    add_files(root, out);
  }
  for (const auto& root : extra) {
    add_files(root, out);
  }
  for (const pid_t pid : other_processes()) {
    if (is_systemds(pid)) {
      continue;
    }
    auto command = text_of(base::format("/proc/{}/cmdline", pid));
    std::ranges::replace(command, '\0', ' ');
    out.insert("process " + command);
  }
  for (const char* table : {"tcp", "tcp6", "udp", "udp6"}) {
    std::istringstream lines(text_of(fs::path("/proc/net") / table));
    std::string line;
    std::getline(lines, line);
    while (std::getline(lines, line)) {
      std::istringstream fields(line);
      std::string number, local, remote, state;
      fields >> number >> local >> remote >> state;
      if (state == "0A" || std::string_view(table).starts_with("udp")) {
        out.insert(base::format("{} {}", table, local));
      }
    }
  }
  std::istringstream sockets(text_of("/proc/net/unix"));
  for (std::string line; std::getline(sockets, line);) {
    if (const auto name = line.find_first_of("/@", line.find(' ')); name != std::string::npos) {
      out.insert("socket " + line.substr(name));
    }
  }
  if (const auto mount = host::find_cgroup2_mount().value()) {
    std::error_code error;
    for (fs::recursive_directory_iterator it(*mount, error), end; !error && it != end; it.increment(error)) {
      if (it->is_directory(error) && !is_systemds(it->path().string())) {
        out.insert("cgroup " + it->path().string());
      }
    }
  }
  if (g_machine) {
    add_units(out);
  }
  return out;
}

std::string difference(const std::set<std::string>& before, const std::set<std::string>& now) {
  std::string out;
  for (const auto& line : now) {
    out += before.contains(line) ? "" : "+ " + line + "\n";
  }
  for (const auto& line : before) {
    out += now.contains(line) ? "" : "- " + line + "\n";
  }
  return out;
}

void kill_everything() {
  ::kill(-1, SIGKILL);
  for (int i = 0; i < 5000 && !other_processes().empty(); ++i) {
    ::usleep(1000);
  }
}

}  // namespace dstack::test
