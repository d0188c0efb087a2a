#include "net/resolve.h"

#include <arpa/inet.h>
#include <arpa/nameser.h>
#include <netdb.h>
#include <netinet/in.h>
#include <resolv.h>

#include <algorithm>
#include <cstring>
#include <sstream>

#include "base/format.h"
#include "base/fs.h"
#include "net/http.h"

namespace dstack::net {

namespace {

using base::Code;
using base::fail;

SocketAddress make(const in_addr& ip, std::uint16_t port) {
  SocketAddress out;
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr = ip;
  std::memcpy(&out.storage, &address, sizeof address);
  out.length = sizeof address;
  return out;
}

SocketAddress make(const in6_addr& ip, std::uint16_t port) {
  SocketAddress out;
  sockaddr_in6 address = {};
  address.sin6_family = AF_INET6;
  address.sin6_port = htons(port);
  address.sin6_addr = ip;
  std::memcpy(&out.storage, &address, sizeof address);
  out.length = sizeof address;
  return out;
}

// The addresses of one type in a DNS answer. CNAME records need no following: a resolver puts the target's
// addresses into the same answer.
void collect(const unsigned char* answer, int length, ns_type type, std::uint16_t port,
             std::vector<SocketAddress>& out) {
  ns_msg message;
  if (ns_initparse(answer, length, &message) != 0) {
    return;
  }
  for (int i = 0; i < ns_msg_count(message, ns_s_an); ++i) {
    ns_rr record;
    if (ns_parserr(&message, ns_s_an, i, &record) != 0 || ns_rr_type(record) != type) {
      continue;
    }
    if (type == ns_t_a && ns_rr_rdlen(record) == sizeof(in_addr)) {
      in_addr ip;
      std::memcpy(&ip, ns_rr_rdata(record), sizeof ip);
      out.push_back(make(ip, port));
    } else if (type == ns_t_aaaa && ns_rr_rdlen(record) == sizeof(in6_addr)) {
      in6_addr ip;
      std::memcpy(&ip, ns_rr_rdata(record), sizeof ip);
      out.push_back(make(ip, port));
    }
  }
}

}  // namespace

bool SocketAddress::is_loopback() const {
  if (family() == AF_INET) {
    sockaddr_in address;
    std::memcpy(&address, &storage, sizeof address);
    return ntohl(address.sin_addr.s_addr) >> 24 == IN_LOOPBACKNET;
  }
  if (family() == AF_INET6) {
    sockaddr_in6 address;
    std::memcpy(&address, &storage, sizeof address);
    return IN6_IS_ADDR_LOOPBACK(&address.sin6_addr) ||
           (IN6_IS_ADDR_V4MAPPED(&address.sin6_addr) && address.sin6_addr.s6_addr[12] == IN_LOOPBACKNET);
  }
  return false;
}

std::string SocketAddress::to_string() const {
  char text[INET6_ADDRSTRLEN] = {};
  if (family() == AF_INET) {
    sockaddr_in address;
    std::memcpy(&address, &storage, sizeof address);
    ::inet_ntop(AF_INET, &address.sin_addr, text, sizeof text);
    return base::format("{}:{}", text, ntohs(address.sin_port));
  }
  if (family() == AF_INET6) {
    sockaddr_in6 address;
    std::memcpy(&address, &storage, sizeof address);
    ::inet_ntop(AF_INET6, &address.sin6_addr, text, sizeof text);
    return base::format("[{}]:{}", text, ntohs(address.sin6_port));
  }
  return family() == AF_UNIX ? "unix" : base::format("an address of family {}", family());
}

base::Result<SocketAddress> parse_ip(const std::string& ip, std::uint16_t port) {
  in_addr v4;
  if (::inet_pton(AF_INET, ip.c_str(), &v4) == 1) {
    return make(v4, port);
  }
  in6_addr v6;
  if (::inet_pton(AF_INET6, ip.c_str(), &v6) == 1) {
    return make(v6, port);
  }
  return fail(Code::invalid_argument, base::format("'{}' is not an IP address", ip),
              "give a numeric address such as 127.0.0.1 or ::1");
}

std::vector<SocketAddress> find_in_hosts(const std::string& hosts_text, const std::string& host,
                                         std::uint16_t port) {
  std::vector<SocketAddress> out;
  std::istringstream lines(hosts_text);
  std::string line;
  while (std::getline(lines, line)) {
    std::istringstream words(line.substr(0, line.find('#')));
    std::string ip;
    std::string name;
    words >> ip;
    while (words >> name) {
      if (equal_ignoring_case(name, host)) {
        if (auto address = parse_ip(ip, port)) {
          out.push_back(*address);
        }
        break;
      }
    }
  }
  return out;
}

base::Result<std::vector<SocketAddress>> resolve(const std::string& host, std::uint16_t port,
                                                 std::chrono::milliseconds timeout) {
  std::vector<SocketAddress> out;
  if (auto literal = parse_ip(host, port)) {
    out.push_back(*literal);
    return out;
  }
  if (equal_ignoring_case(host, "localhost")) {
    // Not left to a file or a name server: what is meant for this machine must not leave it.
    out.push_back(make(in_addr{htonl(INADDR_LOOPBACK)}, port));
    out.push_back(make(in6addr_loopback, port));
    return out;
  }
  if (const auto hosts = base::read_file("/etc/hosts")) {
    out = find_in_hosts(*hosts, host, port);
    if (!out.empty()) {
      return out;
    }
  }
  struct __res_state state = {};
  if (::res_ninit(&state) != 0) {
    return fail(Code::connect_failed, base::format("cannot look up '{}'", host), "check /etc/resolv.conf");
  }
  const auto seconds = std::max<long>(1, std::chrono::duration_cast<std::chrono::seconds>(timeout).count());
  state.retry = 2;
  state.retrans = static_cast<int>(std::max<long>(1, seconds / 4));
  bool server_answered = false;
  for (const ns_type type : {ns_t_a, ns_t_aaaa}) {
    std::vector<unsigned char> answer(64 * 1024);
    const int length =
        ::res_nsearch(&state, host.c_str(), ns_c_in, type, answer.data(), static_cast<int>(answer.size()));
    if (length > 0) {
      collect(answer.data(), std::min<int>(length, static_cast<int>(answer.size())), type, port, out);
    }
    server_answered = server_answered || length > 0 || state.res_h_errno != TRY_AGAIN;
    if (!server_answered) {
      break;
    }
  }
  ::res_nclose(&state);
  if (out.empty()) {
    return fail(Code::connect_failed,
                server_answered ? base::format("there is no host '{}'", host)
                                : base::format("cannot look up '{}': no name server answers", host),
                server_answered ? "check the spelling, or give the IP address"
                                : "check /etc/resolv.conf, or give the IP address");
  }
  return out;
}

}  // namespace dstack::net
