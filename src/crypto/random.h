// The operating system's random generator.
#pragma once

#include <cstddef>

#include "base/bytes.h"
#include "base/result.h"
#include "crypto/secret.h"

namespace dstack::crypto {

base::Result<base::Bytes> random_bytes(std::size_t count);
base::Result<Secret> random_secret(std::size_t count);

}  // namespace dstack::crypto
