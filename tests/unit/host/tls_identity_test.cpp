#include "host/tls_identity.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include "base/fs.h"
#include "crypto/x509.h"
#include "unit/temp_dir.h"

using namespace dstack;
using base::Code;
using testing::ElementsAre;

namespace {

class TlsIdentity : public testing::Test {
 protected:
  test::TempDir directory;
  std::filesystem::path key = directory / "vmm-tls.key";
  std::filesystem::path certificate = directory / "vmm-tls.pem";

  bool ensure(const std::string& ip) const {
    const auto made = host::ensure_tls_identity(key, certificate, ip);
    EXPECT_TRUE(made) << made.error().what();
    return made && *made;
  }
};

}  // namespace

TEST_F(TlsIdentity, IsMadeOnceForAnAddress) {
  EXPECT_TRUE(ensure("192.0.2.7"));
  struct stat info = {};
  ASSERT_EQ(::stat(key.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 07777, 0600U);
  const auto made = crypto::Certificate::from_pem(*base::read_file(certificate));
  ASSERT_TRUE(made);
  EXPECT_THAT(made->alt_names(), ElementsAre("192.0.2.7"));
  EXPECT_FALSE(made->is_ca());
  const auto fingerprint = host::read_fingerprint(certificate);
  ASSERT_TRUE(fingerprint);
  EXPECT_EQ(*fingerprint, host::certificate_fingerprint(made->der()));
  EXPECT_FALSE(ensure("192.0.2.7"));
  EXPECT_EQ(*host::read_fingerprint(certificate), *fingerprint);
}

TEST_F(TlsIdentity, IsMadeAnewWhenItDoesNotFit) {
  EXPECT_TRUE(ensure("192.0.2.7"));
  EXPECT_TRUE(ensure("192.0.2.8")) << "another address";
  EXPECT_TRUE(ensure("2001:db8::1"));
  EXPECT_FALSE(ensure("2001:0db8:0::0001")) << "the same in other words";
  ASSERT_EQ(::chmod(key.c_str(), 0644), 0);
  EXPECT_TRUE(ensure("2001:db8::1")) << "others have read the key";
  const auto old_key = base::read_file(key);
  ASSERT_TRUE(base::remove_file(key));
  EXPECT_TRUE(ensure("2001:db8::1")) << "no key";
  ASSERT_TRUE(base::write_file_atomic(key, *old_key));
  EXPECT_TRUE(ensure("2001:db8::1")) << "the key of another certificate, as after a crash between both";
  ASSERT_TRUE(base::write_file_atomic(certificate, "no certificate"));
  EXPECT_TRUE(ensure("2001:db8::1"));
}

TEST(Fingerprint, IsReadAsPeopleWriteIt) {
  const std::string hex(64, 'a');
  const auto canonical = "sha256:" + hex;
  EXPECT_EQ(host::parse_fingerprint(canonical), canonical);
  EXPECT_EQ(host::parse_fingerprint(" " + hex + "\n"), canonical);
  EXPECT_EQ(host::parse_fingerprint("SHA256:" + std::string(64, 'A')), canonical);
  std::string colons;
  for (int i = 0; i < 32; ++i) {
    colons += i == 0 ? "AA" : ":AA";
  }
  EXPECT_EQ(host::parse_fingerprint(colons), canonical);
  for (const std::string bad : {"", "sha256:", "sha1:aa", "sha256:zz", "sha256:aa"}) {
    const auto parsed = host::parse_fingerprint(bad);
    ASSERT_FALSE(parsed) << bad;
    EXPECT_EQ(parsed.error().code, Code::invalid_argument);
  }
  EXPECT_FALSE(host::parse_fingerprint(hex + "a"));
}

TEST(Expose, OnlyAnAddressOfThisHost) {
  EXPECT_TRUE(host::check_exposable("127.0.0.2"));
  for (const auto* bad :
       {"", "localhost", "0.0.0.0", "::", "127.0.0.1", "::1", "192.0.2.55", "1.2.3", "1.2.3.4:5"}) {
    const auto checked = host::check_exposable(bad);
    ASSERT_FALSE(checked) << bad;
    EXPECT_EQ(checked.error().code, Code::invalid_argument) << bad;
    EXPECT_FALSE(checked.error().fix.empty()) << bad;
  }
}
