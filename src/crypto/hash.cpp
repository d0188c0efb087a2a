#include "crypto/hash.h"

#include <cstdlib>

#include "crypto/keccak.h"
#include "crypto/openssl.h"

namespace dstack::crypto {
namespace {

// A digest that the library always has can only fail for want of memory.
void must(int ok) {
  if (ok != 1) {
    std::abort();
  }
}

template <std::size_t Size>
std::array<std::uint8_t, Size> digest(const EVP_MD* algorithm, Parts parts) {
  MdCtxPtr context(EVP_MD_CTX_new());
  must(context != nullptr ? EVP_DigestInit_ex(context.get(), algorithm, nullptr) : 0);
  for (const auto& part : parts) {
    must(EVP_DigestUpdate(context.get(), part.data(), part.size()));
  }
  std::array<std::uint8_t, Size> out{};
  must(EVP_DigestFinal_ex(context.get(), out.data(), nullptr));
  return out;
}

}  // namespace

Hash256 sha256(Parts parts) {
  return digest<32>(EVP_sha256(), parts);
}
Hash384 sha384(Parts parts) {
  return digest<48>(EVP_sha384(), parts);
}
Hash512 sha512(Parts parts) {
  return digest<64>(EVP_sha512(), parts);
}

std::string sha256_hex(std::string_view text) {
  return base::to_hex(sha256(base::as_bytes(text)));
}

Hash256 keccak256(Parts parts) {
  constexpr std::size_t k_rate = 136;
  std::array<std::uint64_t, 25> state{};
  std::size_t fill = 0;
  const auto absorb = [&](std::size_t at, std::uint8_t byte) {
    state[at / 8] ^= static_cast<std::uint64_t>(byte) << (8 * (at % 8));
  };
  for (const auto& part : parts) {
    for (const std::uint8_t byte : part) {
      absorb(fill++, byte);
      if (fill == k_rate) {
        keccak_f1600(state);
        fill = 0;
      }
    }
  }
  absorb(fill, 0x01);
  absorb(k_rate - 1, 0x80);
  keccak_f1600(state);
  Hash256 out{};
  for (std::size_t i = 0; i < out.size(); ++i) {
    out[i] = static_cast<std::uint8_t>(state[i / 8] >> (8 * (i % 8)));
  }
  return out;
}

struct Sha256::Impl {
  MdCtxPtr context{EVP_MD_CTX_new()};
};

Sha256::Sha256() : m_impl(std::make_unique<Impl>()) {
  must(m_impl->context != nullptr ? EVP_DigestInit_ex(m_impl->context.get(), EVP_sha256(), nullptr) : 0);
}
Sha256::~Sha256() = default;
Sha256::Sha256(Sha256&&) noexcept = default;
Sha256& Sha256::operator=(Sha256&&) noexcept = default;

void Sha256::update(base::ByteView data) {
  must(EVP_DigestUpdate(m_impl->context.get(), data.data(), data.size()));
}

Hash256 Sha256::finish() {
  Hash256 out{};
  must(EVP_DigestFinal_ex(m_impl->context.get(), out.data(), nullptr));
  return out;
}

}  // namespace dstack::crypto
