// The attestation container. There is one encoding of everything that is accepted.
#include <algorithm>

#include "attest/versioned.h"
#include "fuzz.h"

using namespace dstack;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto attestation = attest::Attestation::decode(fuzz::bytes(data, size));
  if (attestation) {
    const auto again = attestation->encode();
    FUZZ_EXPECT(again.size() == size && std::equal(again.begin(), again.end(), data));
    const auto config = attestation->vm_config();
    if (config) {
      (void)attest::os_image_hash_of(*config);
    }
    (void)attestation->stripped().encode();
  }
  return 0;
}
