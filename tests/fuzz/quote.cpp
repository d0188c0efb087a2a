// TDX quotes. What is accepted encodes to the bytes it was read from.
#include "attest/quote.h"

#include <algorithm>

#include "fuzz.h"

using namespace dstack;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto quote = attest::Quote::parse(fuzz::bytes(data, size));
  if (quote) {
    FUZZ_EXPECT(quote->signed_region.size() == 632);
    FUZZ_EXPECT(std::equal(quote->signed_region.begin(), quote->signed_region.end(), data));
    const auto again = attest::Quote::parse(quote->encode());
    FUZZ_EXPECT(again && again->pck_chain_pem == quote->pck_chain_pem &&
                again->signature == quote->signature);
  }
  return 0;
}
