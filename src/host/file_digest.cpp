#include "host/file_digest.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <vector>

#include "base/bytes.h"
#include "base/fd.h"
#include "base/format.h"
#include "crypto/hash.h"

namespace dstack::host {

base::Result<std::string> sha256_file(const std::filesystem::path& path, std::uint64_t limit) {
  const base::Fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) {
    return base::fail_errno(errno == ENOENT ? base::Code::not_found : base::Code::io,
                            base::format("cannot open {}", path.string()), errno);
  }
  crypto::Sha256 stream;
  std::vector<std::uint8_t> buffer(1 << 20);
  std::uint64_t left = limit == 0 ? ~std::uint64_t{0} : limit;
  while (left > 0) {
    const auto n = ::read(fd.get(), buffer.data(), std::min<std::uint64_t>(buffer.size(), left));
    if (n < 0 && errno == EINTR) {
      continue;
    }
    if (n < 0) {
      return base::fail_errno(base::Code::io, base::format("cannot read {}", path.string()), errno);
    }
    if (n == 0) {
      break;
    }
    stream.update({buffer.data(), static_cast<std::size_t>(n)});
    left -= static_cast<std::uint64_t>(n);
  }
  return base::to_hex(stream.finish());
}

}  // namespace dstack::host
