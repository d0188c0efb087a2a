// Arguments of the RPC: JSON, or a query string when the first byte is '?'. What is accepted survives writing
// and reading.
#include "fuzz.h"
#include "proto/vmm_rpc.pb.h"
#include "rpc/json.h"

using namespace dstack;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto text = fuzz::text(data, size);
  vmm::VmConfiguration message;
  const bool query = text.starts_with('?');
  const auto read = query ? rpc::from_query(text.substr(1), message) : rpc::from_json(text, message);
  if (read) {
    const auto written = rpc::to_json(message);
    vmm::VmConfiguration again;
    // Query strings and protobuf strings may hold what is not UTF-8; JSON cannot.
    FUZZ_EXPECT(rpc::from_json(written, again) || query);
    FUZZ_EXPECT(query || rpc::to_json(again) == written);
  }
  vmm::StatusRequest status;
  if (!query && rpc::from_json(text, status)) {
    (void)rpc::to_json(status);
  }
  return 0;
}
