// Certificate signing requests. There is one encoding of everything that is accepted.
#include <algorithm>

#include "attest/ra_tls.h"
#include "fuzz.h"

using namespace dstack;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto request = attest::CertificateRequest::decode(fuzz::bytes(data, size));
  if (request) {
    FUZZ_EXPECT(request->alt_names.size() <= 64);
    const auto again = request->encode();
    FUZZ_EXPECT(again.size() == size && std::equal(again.begin(), again.end(), data));
  }
  return 0;
}
