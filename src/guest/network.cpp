#include "guest/network.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <net/route.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <thread>

#include "base/fd.h"
#include "base/format.h"
#include "base/fs.h"
#include "base/log.h"
#include "crypto/random.h"

namespace dstack::guest {

namespace {

using base::Bytes;
using base::ByteView;
using base::Code;
using base::Result;
using std::chrono::milliseconds;
using std::chrono::steady_clock;
using Mac = std::array<std::uint8_t, 6>;

constexpr std::size_t k_options = 240;  // where DHCP options begin
constexpr std::array<std::uint8_t, 4> k_cookie{99, 130, 83, 99};

void put32(Bytes& out, std::uint32_t value) {
  for (int shift = 24; shift >= 0; shift -= 8) {
    out.push_back(static_cast<std::uint8_t>(value >> shift));
  }
}

std::uint32_t get32(ByteView bytes) {
  return std::uint32_t{bytes[0]} << 24 | std::uint32_t{bytes[1]} << 16 | std::uint32_t{bytes[2]} << 8 |
         bytes[3];
}

Result<base::Fd> inet_socket() {
  base::Fd fd(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!fd) {
    return base::fail_errno(Code::guest_setup, "cannot make a socket", errno);
  }
  return fd;
}

ifreq request_for(const std::string& interface) {
  ifreq request{};
  std::memcpy(request.ifr_name, interface.data(), std::min(interface.size(), sizeof(request.ifr_name) - 1));
  return request;
}

sockaddr inet_address(std::uint32_t address, std::uint16_t port = 0) {
  sockaddr_in in{};
  in.sin_family = AF_INET;
  in.sin_port = htons(port);
  in.sin_addr.s_addr = htonl(address);
  sockaddr out{};
  static_assert(sizeof(in) == sizeof(out));
  std::memcpy(&out, &in, sizeof(in));
  return out;
}

Result<> set_up(int fd, const std::string& interface) {
  auto request = request_for(interface);
  if (::ioctl(fd, SIOCGIFFLAGS, &request) != 0) {
    return base::fail_errno(Code::guest_setup, base::format("cannot find the interface {}", interface),
                            errno);
  }
  request.ifr_flags = static_cast<short>(request.ifr_flags | IFF_UP);
  if (::ioctl(fd, SIOCSIFFLAGS, &request) != 0) {
    return base::fail_errno(Code::guest_setup, base::format("cannot bring {} up", interface), errno);
  }
  return {};
}

Result<> apply(int fd, const std::string& interface, const Lease& lease) {
  auto request = request_for(interface);
  request.ifr_addr = inet_address(lease.address);
  if (::ioctl(fd, SIOCSIFADDR, &request) != 0) {
    return base::fail_errno(Code::guest_setup, base::format("cannot set the address of {}", interface),
                            errno);
  }
  const std::uint32_t mask = lease.prefix == 0 ? 0 : ~std::uint32_t{0} << (32 - lease.prefix);
  request.ifr_netmask = inet_address(mask);
  if (::ioctl(fd, SIOCSIFNETMASK, &request) != 0) {
    return base::fail_errno(Code::guest_setup, base::format("cannot set the netmask of {}", interface),
                            errno);
  }
  if (lease.router != 0) {
    rtentry route{};
    route.rt_dst = inet_address(0);
    route.rt_genmask = inet_address(0);
    route.rt_gateway = inet_address(lease.router);
    route.rt_flags = RTF_UP | RTF_GATEWAY;
    if (::ioctl(fd, SIOCADDRT, &route) != 0 && errno != EEXIST) {
      return base::fail_errno(Code::guest_setup, "cannot set the default route", errno);
    }
  }
  return {};
}

// Waits for a reply of one of the wanted types.
std::optional<DhcpReply> receive(int fd, std::uint32_t transaction, const Mac& mac, std::uint8_t wanted,
                                 steady_clock::time_point deadline) {
  while (true) {
    const auto left = std::chrono::duration_cast<milliseconds>(deadline - steady_clock::now());
    if (left.count() <= 0) {
      return std::nullopt;
    }
    pollfd wait{fd, POLLIN, 0};
    if (::poll(&wait, 1, static_cast<int>(left.count())) <= 0) {
      return std::nullopt;
    }
    std::array<std::uint8_t, 2048> packet;
    const auto size = ::recv(fd, packet.data(), packet.size(), MSG_DONTWAIT);
    if (size <= 0) {
      continue;
    }
    const auto reply =
        parse_dhcp_reply(ByteView(packet).first(static_cast<std::size_t>(size)), transaction, mac);
    if (reply && reply->type == wanted) {
      return reply;
    }
  }
}

Result<Lease> dhcp(const std::string& interface, milliseconds limit) {
  DS_TRY(const auto fd, inet_socket());
  const int on = 1;
  ::setsockopt(fd.get(), SOL_SOCKET, SO_BROADCAST, &on, sizeof(on));
  ::setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  if (::setsockopt(fd.get(), SOL_SOCKET, SO_BINDTODEVICE, interface.c_str(),
                   static_cast<socklen_t>(interface.size() + 1)) != 0) {
    return base::fail_errno(Code::guest_setup, base::format("cannot bind a socket to {}", interface), errno);
  }
  const auto any = inet_address(INADDR_ANY, 68);
  if (::bind(fd.get(), &any, sizeof(any)) != 0) {
    return base::fail_errno(Code::guest_setup, "cannot bind the DHCP client port", errno);
  }
  auto request = request_for(interface);
  if (::ioctl(fd.get(), SIOCGIFHWADDR, &request) != 0 || request.ifr_hwaddr.sa_family != ARPHRD_ETHER) {
    return base::fail(Code::guest_setup, base::format("{} is not an Ethernet interface", interface));
  }
  Mac mac{};
  std::memcpy(mac.data(), request.ifr_hwaddr.sa_data, mac.size());
  DS_TRY(const auto random, crypto::random_bytes(4));
  const auto transaction = get32(random);

  const auto everyone = inet_address(INADDR_BROADCAST, 67);
  const auto deadline = steady_clock::now() + limit;
  auto pause = milliseconds(200);
  while (steady_clock::now() < deadline) {
    const auto exchange = [&](const std::optional<Lease>& offer, std::uint8_t wanted) {
      const auto message = dhcp_message(transaction, mac, offer);
      ::sendto(fd.get(), message.data(), message.size(), 0, &everyone, sizeof(everyone));
      return receive(fd.get(), transaction, mac, wanted, std::min(deadline, steady_clock::now() + pause));
    };
    const auto offer = exchange(std::nullopt, 2);
    if (offer) {
      const auto answer = exchange(offer->lease, 5);
      if (answer) {
        return answer->lease;
      }
    }
    pause *= 2;
  }
  return base::fail(Code::timeout, base::format("no DHCP server answers on {}", interface));
}

}  // namespace

Lease user_network_lease() {
  return Lease{0x0a00020f, 24, 0x0a000202, {0x0a000203}, 0, 0};
}

std::string to_dotted(std::uint32_t address) {
  return base::format("{}.{}.{}.{}", address >> 24, address >> 16 & 255, address >> 8 & 255, address & 255);
}

Bytes dhcp_message(std::uint32_t transaction, const Mac& mac, const std::optional<Lease>& offer) {
  Bytes out{1, 1, 6, 0};  // request, Ethernet, address length, hops
  put32(out, transaction);
  out.insert(out.end(), {0, 0, 0x80, 0});  // seconds, "answer by broadcast"
  out.resize(28, 0);
  base::append(out, mac);
  out.resize(k_options - 4, 0);
  base::append(out, k_cookie);
  out.insert(out.end(), {53, 1, static_cast<std::uint8_t>(offer ? 3 : 1)});
  if (offer) {
    out.insert(out.end(), {50, 4});
    put32(out, offer->address);
    out.insert(out.end(), {54, 4});
    put32(out, offer->server);
  }
  out.insert(out.end(), {55, 3, 1, 3, 6, 255});  // wanted: netmask, router, name servers
  out.resize(std::max<std::size_t>(out.size(), 300), 0);
  return out;
}

std::optional<DhcpReply> parse_dhcp_reply(ByteView packet, std::uint32_t transaction, const Mac& mac) {
  if (packet.size() < k_options || packet[0] != 2 || get32(packet.subspan(4, 4)) != transaction ||
      !std::ranges::equal(packet.subspan(28, 6), mac) ||
      !std::ranges::equal(packet.subspan(236, 4), k_cookie)) {
    return std::nullopt;
  }
  DhcpReply reply;
  reply.lease.address = get32(packet.subspan(16, 4));
  for (std::size_t at = k_options; at < packet.size() && packet[at] != 255;) {
    const auto option = packet[at];
    if (option == 0) {
      ++at;
      continue;
    }
    if (at + 2 > packet.size() || at + 2 + packet[at + 1] > packet.size()) {
      return std::nullopt;
    }
    const auto value = packet.subspan(at + 2, packet[at + 1]);
    at += 2 + value.size();
    if (option == 53 && value.size() == 1) {
      reply.type = value[0];
    } else if (option == 1 && value.size() == 4) {
      reply.lease.prefix = static_cast<unsigned>(std::popcount(get32(value)));
    } else if (option == 3 && value.size() >= 4) {
      reply.lease.router = get32(value);
    } else if (option == 51 && value.size() == 4) {
      reply.lease.seconds = get32(value);
    } else if (option == 54 && value.size() == 4) {
      reply.lease.server = get32(value);
    } else if (option == 6) {
      for (std::size_t i = 0; i + 4 <= value.size() && reply.lease.dns.size() < 3; i += 4) {
        reply.lease.dns.push_back(get32(value.subspan(i, 4)));
      }
    }
  }
  const bool usable =
      reply.type == 6 || (reply.lease.address != 0 && reply.lease.address != INADDR_BROADCAST);
  return reply.type != 0 && usable ? std::optional(reply) : std::nullopt;
}

Result<> bring_up_loopback() {
  DS_TRY(const auto fd, inet_socket());
  return set_up(fd.get(), "lo");
}

Result<std::string> find_interface(milliseconds limit) {
  const auto deadline = steady_clock::now() + limit;
  while (true) {
    std::vector<std::string> names;
    std::error_code error;
    for (auto it = std::filesystem::directory_iterator("/sys/class/net", error);
         !error && it != std::filesystem::directory_iterator(); it.increment(error)) {
      // Only real devices have one; bridges, tunnels and lo do not.
      std::error_code ignored;
      if (std::filesystem::exists(it->path() / "device", ignored)) {
        names.push_back(it->path().filename().string());
      }
    }
    if (!names.empty()) {
      return *std::ranges::min_element(names);
    }
    if (steady_clock::now() >= deadline) {
      return base::fail(Code::guest_setup, "the VM has no network interface");
    }
    std::this_thread::sleep_for(milliseconds(10));
  }
}

Result<Lease> configure_interface(const std::string& interface, milliseconds limit,
                                  const std::string& resolv_conf) {
  DS_TRY(const auto fd, inet_socket());
  DS_CHECK(set_up(fd.get(), interface));
  Lease lease;
  if (auto answer = dhcp(interface, limit)) {
    lease = *answer;
  } else {
    base::log_warn(
        base::format("{}; using {}", answer.error().what(), to_dotted(user_network_lease().address)));
    lease = user_network_lease();
  }
  DS_CHECK(apply(fd.get(), interface, lease));
  std::string text;
  for (const auto server : lease.dns) {
    text += base::format("nameserver {}\n", to_dotted(server));
  }
  DS_CHECK(base::write_file_atomic(resolv_conf, text));
  return lease;
}

}  // namespace dstack::guest
