// Removing an app: its VM, and its grant when nothing else needs it.
#pragma once

#include <chrono>
#include <filesystem>
#include <functional>
#include <optional>
#include <string_view>

#include "base/result.h"
#include "client/vmm_client.h"

namespace dstack::client {

struct RemoveOptions {
  std::optional<std::filesystem::path> allowlist;
  bool keep_grant = false;
  // How long to wait until the VM is gone; zero does not wait.
  std::chrono::milliseconds timeout{60'000};
  std::function<void(std::string_view)> waiting;
};

struct Removed {
  bool grant_revoked = false;
  bool gone = false;  // false: the VMM goes on removing it
};

// Removes `vm` (as vms() gave it, with its configuration). The grant of its compose hash is taken back unless
// another VM of `others` has the same app id and hash. Code::permission when the allow-list cannot be
// changed: then the VM is removed nevertheless and the error says so.
base::Result<Removed> remove_app(const VmmClient& vmm, const ::vmm::VmInfo& info,
                                 const std::vector<::vmm::VmInfo>& others, const RemoveOptions& options);

}  // namespace dstack::client
