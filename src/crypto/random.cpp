#include "crypto/random.h"

#include <openssl/rand.h>

#include "crypto/openssl.h"

namespace dstack::crypto {

base::Result<base::Bytes> random_bytes(std::size_t count) {
  base::Bytes out(count);
  if (count != 0 && RAND_priv_bytes(out.data(), static_cast<int>(count)) != 1) {
    return fail_openssl(base::Code::crypto, "the random generator failed");
  }
  return out;
}

base::Result<Secret> random_secret(std::size_t count) {
  DS_TRY(auto bytes, random_bytes(count));
  return Secret(std::move(bytes));
}

}  // namespace dstack::crypto
