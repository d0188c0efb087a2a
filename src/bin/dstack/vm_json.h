// Parts of a VM's JSON form that several verbs print.
#pragma once

#include <nlohmann/json_fwd.hpp>

#include "proto/vmm_rpc.pb.h"

namespace dstack::dstack_cli {

// [{"vmPort", "hostPort", "hostAddress", "protocol"}]
nlohmann::ordered_json ports_to_json(const ::vmm::VmConfiguration& configuration);

}  // namespace dstack::dstack_cli
