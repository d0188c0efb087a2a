#include "client/select.h"

#include <functional>

#include "base/bytes.h"
#include "base/format.h"
#include "base/log.h"

namespace dstack::client {
namespace {

using base::Code;
using Match = std::function<bool(const ::vmm::VmInfo&)>;

constexpr std::size_t k_min_prefix = 4;

}  // namespace

base::Result<::vmm::VmInfo> find_vm(const std::vector<::vmm::VmInfo>& vms, std::string_view text) {
  const std::string hex = base::normalize_hex(text);
  const bool prefix = hex.size() >= k_min_prefix;
  const Match rules[] = {
      [&](const auto& vm) { return !text.empty() && vm.id() == text; },
      [&](const auto& vm) { return !text.empty() && vm.name() == text; },
      [&](const auto& vm) { return !hex.empty() && (vm.app_id() == hex || vm.instance_id() == hex); },
      [&](const auto& vm) {
        return prefix && (vm.id().starts_with(hex) || vm.app_id().starts_with(hex) ||
                          vm.instance_id().starts_with(hex));
      },
  };
  const std::string shown = base::escape_control(text.substr(0, 100));
  for (const Match& rule : rules) {
    const ::vmm::VmInfo* found = nullptr;
    std::string candidates;
    int count = 0;
    for (const auto& vm : vms) {
      if (rule(vm)) {
        found = &vm;
        ++count;
        candidates += base::format("{}{} ({})", candidates.empty() ? "" : ", ", vm.id(), vm.name());
      }
    }
    if (count == 1) {
      return *found;
    }
    if (count > 1) {
      return base::fail(
          Code::ambiguous_app,
          base::format("\"{}\" matches {} VMs: {}", shown, count, base::escape_control(candidates)),
          "give one of these ids");
    }
  }
  return base::fail(Code::no_such_app, base::format("no app matches \"{}\"", shown),
                    "\"dstack apps\" lists ids and names; a prefix needs at least 4 characters");
}

}  // namespace dstack::client
