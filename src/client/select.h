// Finds the VM that a user means.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "proto/vmm_rpc.pb.h"

namespace dstack::client {

// `text` is, in this order: a VM id, a name, an app id, an instance id, a prefix of one of the ids (at least
// 4 characters). Several matches of the first rule that matches are Code::ambiguous_app, none is
// Code::no_such_app.
base::Result<::vmm::VmInfo> find_vm(const std::vector<::vmm::VmInfo>& vms, std::string_view text);

}  // namespace dstack::client
