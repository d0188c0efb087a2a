#include "context.h"

#include <algorithm>

#include "base/format.h"
#include "base/fs.h"
#include "host/token.h"

namespace dstack::dstackup {

base::Result<client::VmmClient> open_vmm(const host::Layout& layout, const host::InstallState& state) {
  DS_TRY(auto endpoint, net::Endpoint::parse(state.client_url));
  auto token = host::read_token(layout.token_file());
  if (!token) {
    auto error = std::move(token).error();
    if (error.code == base::Code::permission) {
      error.fix = "run it with sudo";
    }
    return base::fail(std::move(error), "the VMM's token cannot be read");
  }
  return client::VmmClient(std::move(endpoint), std::move(*token));
}

base::Result<std::unique_ptr<host::ServiceManager>> open_services(
    const host::Layout& layout, const std::string& instance, bool may_start,
    const std::string& supervisor_bin, std::function<void(std::string_view)> waiting) {
  host::ServiceManagerOptions options;
  options.supervisor_bin = supervisor_bin;
  options.layout = layout;
  options.instance = instance;
  options.may_start = may_start;
  options.waiting = std::move(waiting);
  std::error_code error;
  options.supervisor_program = std::filesystem::read_symlink("/proc/self/exe", error).string();
  return host::open_service_manager(options);
}

base::Result<std::string> ask_vmm(const host::Layout& layout, const host::InstallState& state) {
  DS_TRY(auto vmm, open_vmm(layout, state));
  vmm.set_limit(std::chrono::seconds(2));
  DS_TRY(const auto vms, vmm.vms(/*brief=*/true));
  const auto running = std::ranges::count_if(vms, [](const auto& vm) { return vm.status() == "running"; });
  return base::format("{} VMs, {} running", vms.size(), running);
}

host::Probe host_probe(host::ServiceManager& services) {
  auto probe = host::machine_probe();
  host::add_services(probe, services);
  probe.ask_vmm = ask_vmm;
  return probe;
}

base::Result<base::FileLock> take_lock(const host::Layout& layout) {
  DS_TRY(auto lock, base::FileLock::try_acquire(layout.install_lock()));
  if (!lock) {
    return base::fail(base::Code::locked, "another dstackup works on this installation",
                      "wait until it has finished and try again");
  }
  return std::move(*lock);
}

int report(const cli::Streams& streams, bool json, const std::function<base::Result<int>()>& verb) {
  const auto code = verb();
  return code ? *code : cli::print_error(streams, code.error(), json);
}

}  // namespace dstack::dstackup
