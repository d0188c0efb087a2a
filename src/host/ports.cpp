#include "host/ports.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <mutex>
#include <set>
#include <sstream>
#include <thread>

#include "base/bytes.h"
#include "base/fd.h"
#include "base/format.h"
#include "base/fs.h"
#include "net/resolve.h"

namespace dstack::host {

using base::Code;
using base::Result;

namespace {

// Socket inodes that listen on the port, from /proc/net/tcp or tcp6.
void listening_inodes(const std::filesystem::path& table, std::uint16_t port, std::set<std::string>& out) {
  const auto text = base::read_file(table);
  if (!text) {
    return;
  }
  std::istringstream lines(*text);
  std::string line;
  std::getline(lines, line);
  while (std::getline(lines, line)) {
    std::istringstream fields(line);
    std::string number, local, remote, state, queues, timer, retransmits, uid, timeout, inode;
    fields >> number >> local >> remote >> state >> queues >> timer >> retransmits >> uid >> timeout >> inode;
    const auto colon = local.rfind(':');
    if (state == "0A" && colon != std::string::npos &&
        std::strtoul(local.c_str() + colon + 1, nullptr, 16) == port) {
      out.insert("socket:[" + inode + "]");
    }
  }
}

bool overlap(const std::string& a, const std::string& b) {
  const auto any = [](const std::string& ip) { return ip == "0.0.0.0" || ip == "::"; };
  return a == b || any(a) || any(b);
}

}  // namespace

namespace {

Result<bool> can_listen(const std::string& ip, std::uint16_t port) {
  const auto address = net::parse_ip(ip, port);
  if (!address) {
    return base::fail(Code::invalid_argument, "'" + ip + "' is not an IP address");
  }
  const base::Fd fd(::socket(address->family(), SOCK_STREAM | SOCK_CLOEXEC, 0));
  // As the services do: connections of an earlier run that linger must not make the port look taken.
  const int on = 1;
  if (!fd || ::setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) != 0) {
    return base::fail_errno(Code::net, "cannot make a socket", errno);
  }
  if (::bind(fd.get(), address->get(), address->length) == 0 && ::listen(fd.get(), 1) == 0) {
    return true;
  }
  if (errno == EADDRINUSE) {
    return false;
  }
  return base::fail_errno(Code::net, base::format("cannot test the port {}:{}", ip, port), errno);
}

}  // namespace

Result<bool> port_is_free(const std::string& ip, std::uint16_t port) {
  // A test is a listener itself: one at a time here, and a second look when it may have been another
  // program's.
  static std::mutex one_at_a_time;
  const std::lock_guard lock(one_at_a_time);
  for (int look = 1;; ++look) {
    auto free = can_listen(ip, port);
    if (!free || *free || look == 3) {
      return free;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
}

std::optional<std::string> who_listens(std::uint16_t port, const std::filesystem::path& proc) {
  std::set<std::string> inodes;
  listening_inodes(proc / "net/tcp", port, inodes);
  listening_inodes(proc / "net/tcp6", port, inodes);
  if (inodes.empty()) {
    return std::nullopt;
  }
  std::error_code error;
  for (const auto& process : std::filesystem::directory_iterator(proc, error)) {
    const auto pid = process.path().filename().string();
    if (pid.find_first_not_of("0123456789") != std::string::npos) {
      continue;
    }
    std::error_code gone;
    for (std::filesystem::directory_iterator it(process.path() / "fd", gone), end; !gone && it != end;
         it.increment(gone)) {
      std::error_code unreadable;
      if (inodes.contains(std::filesystem::read_symlink(it->path(), unreadable).string())) {
        const auto name = base::read_file(process.path() / "comm", 256);
        return base::format("{} (pid {})", name ? base::trim(*name) : "a process", pid);
      }
    }
  }
  return std::nullopt;
}

Result<> check_port_numbers(const std::vector<PlannedPort>& plan) {
  for (const auto& port : plan) {
    if (port.port == 0) {
      return base::fail(Code::invalid_argument, port.flag + " 0 is not usable",
                        "choose a port between 1 and 65535");
    }
  }
  for (std::size_t i = 0; i < plan.size(); ++i) {
    for (std::size_t j = i + 1; j < plan.size(); ++j) {
      if (plan[i].port == plan[j].port && overlap(plan[i].ip, plan[j].ip)) {
        return base::fail(
            Code::port_conflict,
            base::format("{} and {} both want port {}", plan[i].flag, plan[j].flag, plan[i].port),
            base::format("give {} another port", plan[j].flag));
      }
    }
  }
  return {};
}

Result<std::vector<BusyPort>> find_busy_ports(const std::vector<PlannedPort>& plan, const PortTest& is_free,
                                              const std::filesystem::path& proc) {
  std::vector<BusyPort> out;
  for (const auto& port : plan) {
    if (port.ours || port.port == 0) {
      continue;
    }
    DS_TRY(const bool free, is_free(port.ip, port.port));
    if (!free) {
      out.push_back({port, who_listens(port.port, proc).value_or("")});
    }
  }
  return out;
}

Result<std::uint16_t> pick_host_port(std::uint16_t first, const std::vector<std::uint16_t>& taken,
                                     const PortTest& is_free) {
  for (unsigned port = std::max(first, k_first_host_port); port <= k_last_host_port; ++port) {
    const auto candidate = static_cast<std::uint16_t>(port);
    if (std::ranges::find(taken, candidate) != taken.end()) {
      continue;
    }
    DS_TRY(const bool free, is_free("127.0.0.1", candidate));
    if (free) {
      return candidate;
    }
  }
  return base::fail(Code::port_conflict,
                    base::format("no TCP port from {} to {} is free", first, k_last_host_port),
                    "stop something that listens there");
}

}  // namespace dstack::host
