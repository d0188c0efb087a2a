// Checks of the operating system: memory, disk, cgroups, clock, ports, other VM managers.
#include <sys/stat.h>

#include <toml++/toml.h>
#include <filesystem>
#include <sstream>

#include "base/bytes.h"
#include "base/format.h"
#include "base/fs.h"
#include "crypto/x509.h"
#include "host/doctor_checks.h"

namespace dstack::host::checks {

using base::Code;

namespace {

// Before an installation there must be room for the KMS; later what VMs have taken is not missing.
constexpr std::uint64_t k_least_memory_mib = 1500;
constexpr std::uint64_t k_little_memory_mib = 1024;
constexpr std::uint64_t k_least_disk_mib = 2048;
constexpr std::uint64_t k_little_disk_mib = 4096;
constexpr std::uint64_t k_almost_no_disk_mib = 512;

constexpr std::int64_t k_this_was_written = 1'767'225'600;  // 2026-01-01
constexpr std::int64_t k_clock_slack = 300;

bool is_tee(const CheckContext& context) {
  return context.facts.platform == PlatformKind::tdx || context.facts.platform == PlatformKind::amd_sev_snp;
}

// Mount points of the cgroup file systems of this version.
std::string cgroup_mount(const std::string& mounts, std::string_view type) {
  std::istringstream lines(mounts);
  for (std::string line; std::getline(lines, line);) {
    std::istringstream words(line);
    std::string device, point, kind;
    if (words >> device >> point >> kind && kind == type) {
      return point;
    }
  }
  return {};
}

bool systemd_is_pid_1(const CheckContext& context, std::string& pid_1) {
  std::error_code error;
  pid_1 = base::trim(base::read_file(context.probe.at("/proc/1/comm"), 256).value_or("unknown"));
  return std::filesystem::is_directory(context.probe.at("/run/systemd/system"), error) && pid_1 == "systemd";
}

std::string window(std::uint64_t start) {
  return base::format("{}-{}", start, start + k_cid_pool_size - 1);
}

// From the configuration as rendered; nullopt when it has none.
std::optional<std::pair<std::int64_t, std::int64_t>> tcp_range(const std::string& vmm_toml) {
  try {
    const auto table = toml::parse(vmm_toml);
    const auto* ranges = table.at_path("cvm.port_mapping.range").as_array();
    for (std::size_t i = 0; ranges != nullptr && i < ranges->size(); ++i) {
      const auto* range = (*ranges)[i].as_table();
      if (range != nullptr && (*range)["protocol"].value_or(std::string()) == "tcp") {
        return std::pair((*range)["from"].value_or(std::int64_t{1}),
                         (*range)["to"].value_or(std::int64_t{0}));
      }
    }
  } catch (const toml::parse_error&) {
    return std::nullopt;
  }
  return std::nullopt;
}

}  // namespace

Finding tools(const CheckContext& context) {
  if (const auto path = context.probe.find_tool("qemu-img")) {
    return ok(*path);
  }
  return failed("qemu-img is not installed: VMs get no disks", "apt-get install qemu-utils");
}

Finding memory(const CheckContext& context) {
  const auto mib = context.facts.memory_mib;
  if (!mib) {
    return warning("/proc/meminfo does not say how much memory is available", "mount /proc");
  }
  const auto evidence = base::format("{} MiB are available", *mib);
  if (context.facts.state) {
    return *mib < k_little_memory_mib
               ? warning(evidence + ", too few for another app", "stop something, or use a larger machine")
               : ok(evidence);
  }
  return *mib < k_least_memory_mib ? failed(base::format("{}, {} are needed", evidence, k_least_memory_mib),
                                            "stop something, or use a larger machine")
                                   : ok(evidence);
}

Finding disk(const CheckContext& context) {
  const auto mib = context.facts.disk_mib;
  const auto where = context.facts.layout.state.string();
  if (!mib) {
    return warning("it is not known how much space is free for " + where, "check the file system it lies on");
  }
  const auto evidence = base::format("{} MiB are free for {}", *mib, where);
  const auto least = context.facts.state ? k_almost_no_disk_mib : k_least_disk_mib;
  if (*mib < least) {
    return failed(base::format("{}, {} are needed", evidence, least),
                  "free some space, or install elsewhere with --prefix", Code::no_space);
  }
  return *mib < k_little_disk_mib ? warning(evidence + ", little for VMs", "free some space") : ok(evidence);
}

Finding cgroup(const CheckContext& context) {
  const auto mounts = base::read_file(context.probe.at("/proc/self/mounts")).value_or("");
  const auto v2 = cgroup_mount(mounts, "cgroup2");
  const auto v1 = cgroup_mount(mounts, "cgroup");
  std::string pid_1;
  if (v2.empty()) {
    return warning(v1.empty()
                       ? "no cgroup file system is mounted: what services leave behind is not found at a stop"
                       : "only cgroup v1 is mounted: what services leave behind is not found at a stop",
                   "mount it with 'mount -t cgroup2 none /sys/fs/cgroup/unified', or boot with "
                   "systemd.unified_cgroup_hierarchy=1");
  }
  if (v1.empty()) {
    return ok("v2 at " + v2);
  }
  if (systemd_is_pid_1(context, pid_1)) {
    return warning(base::format("v2 at {}, with v1 beside it: the limits of VMs are not enforced", v2),
                   "boot with systemd.unified_cgroup_hierarchy=1");
  }
  return ok(base::format("v2 at {}, v1 beside it", v2));
}

Finding service_manager(const CheckContext& context) {
  std::string pid_1;
  const bool systemd = systemd_is_pid_1(context, pid_1);
  const auto& state = context.facts.state;
  const std::string kind = systemd ? "systemd" : "supervisor";
  if (systemd) {
    std::error_code error;
    if (!std::filesystem::exists(context.probe.at("/run/dbus/system_bus_socket"), error)) {
      return failed("systemd is PID 1, but there is no D-Bus socket /run/dbus/system_bus_socket",
                    "apt-get install dbus, then 'systemctl start dbus.socket'", Code::service_manager);
    }
  }
  if (state && !state->service_manager.empty() && state->service_manager != kind) {
    return failed(base::format("the services were installed under {}, now it would be {}",
                               state->service_manager, kind),
                  "run 'dstackup install' again", Code::service_manager);
  }
  return ok(systemd ? "systemd, reached over D-Bus"
                    : base::format("built-in supervisor: PID 1 is {}, not systemd", pid_1));
}

Finding clock(const CheckContext& context) {
  constexpr const char* k_fix = "set the clock, and keep it with a time service such as chrony";
  const auto now = context.probe.now();
  if (now < k_this_was_written) {
    return failed("the clock is before 2026: no certificate is valid yet", k_fix);
  }
  struct stat info = {};
  if (::stat(context.facts.layout.state_file().c_str(), &info) == 0 && info.st_mtime > now + k_clock_slack) {
    return failed(base::format("the clock is {} s behind the last install", info.st_mtime - now), k_fix);
  }
  if (context.facts.state && !context.facts.state->kms_ca_cert.empty()) {
    const auto pem = base::read_file(context.facts.state->kms_ca_cert, 1024 * 1024);
    const auto ca = pem ? crypto::Certificate::from_pem(*pem) : base::fail(pem.error());
    if (ca && (ca->not_before() > now || ca->not_after() < now)) {
      return failed("by this clock the KMS's root certificate is not valid", k_fix);
    }
  }
  if (context.probe.clock_is_kept()) {
    return ok("kept by a time service");
  }
  if (is_tee(context)) {
    return warning("no time service keeps the clock: collateral of quotes is only valid for a time", k_fix);
  }
  return ok("plausible; no time service keeps it");
}

Finding ports(const CheckContext& context) {
  if (context.facts.state_problem) {
    return skipped("the record of what is installed cannot be read");
  }
  const auto plan = plan_ports(context.options, context.facts);
  if (!plan) {
    return failed(plan.error(), "stop something that listens there");
  }
  if (const auto numbers = check_port_numbers(plan->all); !numbers) {
    return failed(numbers.error(), "choose other ports");
  }
  const auto busy = find_busy_ports(plan->all, context.facts.port_is_free, context.probe.at("/proc"));
  if (!busy) {
    return failed(busy.error(), "check that the loopback interface is up");
  }
  if (!busy->empty() && context.facts.state && !context.facts.root) {
    return skipped("needs root");  // to tell whether they are ours
  }
  if (!busy->empty()) {
    std::string evidence;
    std::string flags;
    for (const auto& [port, holder] : *busy) {
      evidence += base::format("{}port {}:{} is in use{}", evidence.empty() ? "" : "; ", port.ip, port.port,
                               holder.empty() ? "" : " by " + holder);
      flags += (flags.empty() ? "" : ", ") + port.flag;
    }
    return failed(evidence, base::format("stop what uses it, or choose another with {}", flags),
                  Code::address_in_use);
  }
  std::string ours;
  std::string open;
  for (const auto& port : plan->all) {
    auto& list = port.ours ? ours : open;
    list += (list.empty() ? "" : ", ") + std::to_string(port.port);
  }
  return ok((ours.empty() ? "" : "held by our services: " + ours) +
            (ours.empty() || open.empty() ? "" : "; ") + (open.empty() ? "" : "free: " + open));
}

Finding port_policy(const CheckContext& context) {
  if (context.options.no_kms) {
    return skipped("there is no KMS");
  }
  const auto plan = plan_ports(context.options, context.facts);
  if (!plan) {
    return skipped("no port was found for the KMS");
  }
  std::pair<std::int64_t, std::int64_t> range{k_first_host_port, k_last_host_port};
  if (context.facts.state) {
    const auto text = base::read_file(context.facts.layout.vmm_toml());
    if (!text) {
      return text.error().code == Code::permission
                 ? skipped("needs root")
                 : failed(text.error(), "run 'dstackup install' again, which writes it");
    }
    const auto configured = tcp_range(*text);
    if (!configured) {
      return failed(context.facts.layout.vmm_toml().string() + " allows no TCP ports",
                    "run 'dstackup install' again, which writes it", Code::vmm_config);
    }
    range = *configured;
  }
  const auto evidence =
      base::format("the KMS's port {}, allowed are {} to {}", plan->kms, range.first, range.second);
  if (plan->kms < range.first || plan->kms > range.second) {
    return failed(evidence, "choose another with --kms-port", Code::invalid_argument);
  }
  return ok(evidence);
}

Finding cid_window(const CheckContext& context) {
  const auto& facts = context.facts;
  if (facts.state_problem) {
    return skipped("the record of what is installed cannot be read");
  }
  const auto& known = facts.state ? facts.state : facts.last;
  const auto wanted = context.options.cid_start;
  const auto others = facts.others.vmms.empty()
                          ? std::string("no other VM manager runs")
                          : base::format("{} other VM managers", facts.others.vmms.size());
  if (!wanted && known && known->cid_start != 0) {
    if (choose_cid_start(known->cid_start, facts.others.cids)) {
      return ok(base::format("{} is ours; {}", window(known->cid_start), others));
    }
    const auto evidence =
        base::format("our VMs' addresses {} overlap another VM manager's", window(known->cid_start));
    const auto next = choose_cid_start(std::nullopt, facts.others.cids);
    const auto fix =
        next ? base::format("run 'dstackup install --cid-start {}', and start the VMs again", *next)
             : next.error().fix;
    // Simulated VMs have no vsock, so nothing collides yet.
    return is_tee(context) ? failed(evidence, fix, Code::cid_conflict) : warning(evidence, fix);
  }
  const auto start = choose_cid_start(wanted, facts.others.cids);
  return start ? ok(base::format("{} will be ours; {}", window(*start), others))
               : failed(start.error(), "choose another with --cid-start");
}

Finding host_api_port(const CheckContext& context) {
  // spec/host.md section 1.5: only where there is a KMS.
  if (context.options.no_kms) {
    return skipped("there is no KMS");
  }
  const auto& facts = context.facts;
  const auto& known = facts.state ? facts.state : facts.last;
  const auto port = context.options.host_api_port        ? *context.options.host_api_port
                    : known && known->host_api_port != 0 ? known->host_api_port
                                                         : k_default_host_api_port;
  for (const auto other : facts.others.host_api_ports) {
    if (other == port) {
      return failed(base::format("another VM manager serves its host API on port {}", port),
                    "choose another with --host-api-port", Code::other_vmm);
    }
  }
  return ok(base::format("no other VM manager uses {}", port));
}

}  // namespace dstack::host::checks
