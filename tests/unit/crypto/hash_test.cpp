#include "crypto/hash.h"

#include <gtest/gtest.h>
#include <openssl/evp.h>

#include "crypto/keccak.h"

using namespace dstack;
using base::as_bytes;
using base::to_hex;

TEST(Hash, MatchesPublishedVectors) {
  EXPECT_EQ(crypto::sha256_hex("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(
      to_hex(crypto::sha384(as_bytes("abc"))),
      "cb00753f45a35e8bb5a03d699ac65007272c32ab0eded1631a8b605a43ff5bed8086072ba1e7cc2358baeca134c825a7");
  EXPECT_EQ(to_hex(crypto::sha512(as_bytes("abc"))).substr(0, 32), "ddaf35a193617abacc417349ae204131");
  EXPECT_EQ(to_hex(crypto::keccak256(as_bytes(""))),
            "c5d2460186f7233c927e7db2dcc703c0e500b653ca82273b7bfad8045d85a470");
  EXPECT_EQ(to_hex(crypto::keccak256(as_bytes("abc"))),
            "4e03657aea45a94fc7d47ba826c8d667c0d1e6e33a64a036ec44f58fa12d6c45");
}

TEST(Hash, PartsAreConcatenated) {
  EXPECT_EQ(crypto::sha256({as_bytes("a"), as_bytes(""), as_bytes("bc")}), crypto::sha256(as_bytes("abc")));
  EXPECT_EQ(crypto::keccak256({as_bytes("ab"), as_bytes("c")}), crypto::keccak256(as_bytes("abc")));
  crypto::Sha256 pieces;
  pieces.update(as_bytes("ab"));
  pieces.update(as_bytes("c"));
  EXPECT_EQ(pieces.finish(), crypto::sha256(as_bytes("abc")));
}

// The permutation is the one of SHA-3: with SHA-3's padding it must give OpenSSL's digests, at every fill of
// a block.
TEST(Keccak, PermutationAgreesWithOpenSslSha3) {
  for (std::size_t size = 0; size < 300; ++size) {
    base::Bytes data(size);
    for (std::size_t i = 0; i < size; ++i) {
      data[i] = static_cast<std::uint8_t>(i * 7 + size);
    }
    std::array<std::uint64_t, 25> state{};
    std::size_t fill = 0;
    const auto absorb = [&](std::size_t at, unsigned byte) {
      state[at / 8] ^= static_cast<std::uint64_t>(byte) << (8 * (at % 8));
    };
    for (const auto byte : data) {
      absorb(fill++, byte);
      if (fill == 136) {
        crypto::keccak_f1600(state);
        fill = 0;
      }
    }
    absorb(fill, 0x06);
    absorb(135, 0x80);
    crypto::keccak_f1600(state);
    base::Bytes ours(32);
    for (std::size_t i = 0; i < 32; ++i) {
      ours[i] = static_cast<std::uint8_t>(state[i / 8] >> (8 * (i % 8)));
    }
    base::Bytes theirs(32);
    ASSERT_EQ(EVP_Digest(data.data(), data.size(), theirs.data(), nullptr, EVP_sha3_256(), nullptr), 1);
    ASSERT_EQ(ours, theirs) << size;
  }
}
