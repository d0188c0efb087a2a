// The real seams of a boot.
#include <unistd.h>

#include <cerrno>
#include <cstdio>

#include "base/format.h"
#include "base/fs.h"
#include "guest/boot.h"
#include "guest/network.h"

namespace dstack::guest {

namespace {

using base::Code;
using base::Result;

constexpr const char* k_host_name = "dstack";

Result<> write_setting(const char* file, const char* value) {
  std::FILE* out = std::fopen(file, "we");
  if (out == nullptr) {
    return base::fail_errno(Code::guest_setup, base::format("cannot open {}", file), errno);
  }
  const bool written = std::fputs(value, out) >= 0;
  if (std::fclose(out) != 0 || !written) {
    return base::fail_errno(Code::guest_setup, base::format("cannot write {}", file), errno);
  }
  return {};
}

Result<> prepare_system() {
  if (::sethostname(k_host_name, std::char_traits<char>::length(k_host_name)) != 0) {
    return base::fail_errno(Code::guest_setup, "cannot set the host name", errno);
  }
  DS_CHECK(write_setting("/proc/sys/net/ipv4/ip_forward", "1"));
  return bring_up_loopback();
}

Result<> set_up_network() {
  DS_TRY(const auto interface, find_interface(std::chrono::seconds(5)));
  DS_TRY(const auto lease, configure_interface(interface, std::chrono::seconds(2), "/etc/resolv.conf"));
  (void)lease;
  return {};
}

}  // namespace

Seams system_seams(Mounter& mounter, Runner& runner) {
  Seams seams;
  seams.mounter = &mounter;
  seams.runner = &runner;
  seams.prepare_system = prepare_system;
  seams.network = set_up_network;
  seams.open_channel = [](const SysConfig& config) {
    return make_http_channel(config.host_api_url, config.host_api_token);
  };
  seams.fetch_keys = get_app_keys;
  seams.console = [](std::string_view line) {
    std::fprintf(stderr, "dstack: %.*s\n", static_cast<int>(line.size()), line.data());
  };
  return seams;
}

}  // namespace dstack::guest
