#include "client/remove.h"

#include <thread>

#include "app/allowlist_file.h"
#include "app/app_compose.h"
#include "base/format.h"

namespace dstack::client {
namespace {

using std::chrono::steady_clock;

bool uses_same_grant(const ::vmm::VmInfo& a, const ::vmm::VmInfo& b) {
  return a.id() != b.id() && a.app_id() == b.app_id() && b.status() != "removing" &&
         a.configuration().compose_file() == b.configuration().compose_file();
}

base::Result<bool> wait_until_gone(const VmmClient& vmm, const std::string& id,
                                   const RemoveOptions& options) {
  const auto end = steady_clock::now() + options.timeout;
  while (true) {
    DS_TRY(const auto info, vmm.info(id));
    if (!info) {
      return true;
    }
    if (steady_clock::now() >= end) {
      return false;
    }
    if (options.waiting) {
      options.waiting("the VM to end");
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
}

}  // namespace

base::Result<Removed> remove_app(const VmmClient& vmm, const ::vmm::VmInfo& info,
                                 const std::vector<::vmm::VmInfo>& others, const RemoveOptions& options) {
  Removed removed;
  DS_CHECK(vmm.remove(info.id()));
  bool shared = false;
  for (const auto& other : others) {
    shared = shared || uses_same_grant(info, other);
  }
  // A VM without an app id in digest form never had a grant of ours.
  const bool has_grant = info.app_id().size() == 40 && !info.configuration().compose_file().empty();
  if (options.allowlist && !options.keep_grant && !shared && has_grant) {
    const auto revoked =
        app::AllowlistFile(*options.allowlist)
            .revoke_hash(info.app_id(), app::compose_hash(info.configuration().compose_file()));
    if (!revoked) {
      return base::fail(
          base::Error(revoked.error()),
          base::format("{} is removed, but its allow-list entry could not be taken back", info.name()));
    }
    removed.grant_revoked = *revoked;
  }
  DS_TRY(removed.gone, wait_until_gone(vmm, info.id(), options));
  return removed;
}

}  // namespace dstack::client
