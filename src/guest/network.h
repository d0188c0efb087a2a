// The guest's network: one interface, its address by DHCP, and the fixed address of QEMU's user-mode network
// when nobody answers.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"

namespace dstack::guest {

struct Lease {
  std::uint32_t address = 0;  // host byte order
  unsigned prefix = 24;
  std::uint32_t router = 0;  // 0 = none
  std::vector<std::uint32_t> dns;
  std::uint32_t server = 0;
  std::uint32_t seconds = 0;  // how long it is good for
};
// 10.0.2.15/24, router 10.0.2.2, name server 10.0.2.3.
Lease user_network_lease();

// "10.0.2.15"
std::string to_dotted(std::uint32_t address);

struct DhcpReply {
  std::uint8_t type = 0;  // 2 offer, 5 acknowledgement, 6 refusal
  Lease lease;
};
// DISCOVER, or REQUEST when `offer` is set.
base::Bytes dhcp_message(std::uint32_t transaction, const std::array<std::uint8_t, 6>& mac,
                         const std::optional<Lease>& offer);
// Checks that it answers this transaction and interface; nullopt for everything else.
std::optional<DhcpReply> parse_dhcp_reply(base::ByteView packet, std::uint32_t transaction,
                                          const std::array<std::uint8_t, 6>& mac);

// Brings `lo` up.
base::Result<> bring_up_loopback();
// The first interface that is not `lo`, waiting for it to appear.
base::Result<std::string> find_interface(std::chrono::milliseconds limit);
// Up, one DHCP exchange of at most `limit`, else user_network_lease(); sets address and default route and
// writes `resolv_conf`.
base::Result<Lease> configure_interface(const std::string& interface, std::chrono::milliseconds limit,
                                        const std::string& resolv_conf);

}  // namespace dstack::guest
