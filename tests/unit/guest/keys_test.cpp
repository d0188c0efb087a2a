#include "guest/keys.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <nlohmann/json.hpp>

#include "attest/verifier.h"
#include "base/fs.h"
#include "unit/guest/evidence_fixture.h"
#include "unit/guest/temp_dir.h"

namespace dstack::guest {
using namespace std::chrono_literals;

namespace {

using base::Code;

class KmsKeys : public testing::Test {
 protected:
  base::Result<BootKeys> fetch(const std::vector<std::string>& urls, const Patience& patience = {}) {
    return fetch_kms_keys(
        urls, {}, m_evidence,
        [this](const KmsOptions& options, attest::EvidenceSource&) -> base::Result<AppKeys> {
          m_asked.push_back(options.url);
          if (options.url == "booting" && m_asked.size() < m_boots_until) {
            return base::fail(Code::connect_failed, "booting: nothing answers");
          }
          if (options.url.starts_with("bad")) {
            return base::fail(Code::rpc, options.url + ": Boot denied: compose hash not allowed");
          }
          auto keys = make_test_keys();
          if (options.url == "empty") {
            keys.disk_crypt_key = {};
          }
          return keys;
        },
        patience);
  }
  std::size_t m_boots_until = 1000;
  attest::SimulatedEvidence m_evidence = make_test_evidence();
  std::vector<std::string> m_asked;
};

TEST_F(KmsKeys, TheFirstThatAnswersWins) {
  const auto keys = fetch({"bad1", "good", "never"});
  ASSERT_TRUE(keys.has_value());
  EXPECT_EQ(keys->kms_url, "good");
  EXPECT_EQ(keys->provider_event, R"({"name":"kms","id":"010203"})");
  EXPECT_THAT(m_asked, testing::ElementsAre("bad1", "good"));
}

TEST_F(KmsKeys, TheFirstErrorIsReported) {
  const auto keys = fetch({"bad1", "bad2"});
  ASSERT_FALSE(keys.has_value());
  EXPECT_EQ(keys.error().what(), "failed to get app keys: bad1: Boot denied: compose hash not allowed");
  EXPECT_EQ(m_asked.size(), 2u);
}

TEST_F(KmsKeys, AKmsThatIsStillBootingIsWaitedFor) {
  m_boots_until = 4;
  int told = 0;
  const auto keys = fetch({"booting"}, {10s, 1ms, [&] { ++told; }});
  ASSERT_TRUE(keys.has_value()) << keys.error().what();
  EXPECT_EQ(m_asked.size(), 4u);
  EXPECT_EQ(told, 1);
}

TEST_F(KmsKeys, ARefusalIsFinalAlsoBesideAKmsThatDoesNotAnswer) {
  const auto keys = fetch({"booting", "bad1"}, {10s, 1ms, {}});
  ASSERT_FALSE(keys.has_value());
  EXPECT_EQ(keys.error().what(), "failed to get app keys: bad1: Boot denied: compose hash not allowed");
  EXPECT_EQ(m_asked.size(), 2u);
}

TEST_F(KmsKeys, PatienceEnds) {
  const auto keys = fetch({"booting"}, {5ms, 1ms, {}});
  ASSERT_FALSE(keys.has_value());
  EXPECT_EQ(keys.error().code, Code::connect_failed);
  EXPECT_EQ(fetch({"booting"}).error().code, Code::connect_failed);
}

TEST_F(KmsKeys, NoUrlIsAnError) {
  const auto keys = fetch({});
  ASSERT_FALSE(keys.has_value());
  EXPECT_EQ(keys.error().message, "No KMS URLs are set");
}

TEST_F(KmsKeys, AnEmptyDiskKeyIsNoKey) {
  const auto keys = fetch({"empty"});
  ASSERT_FALSE(keys.has_value());
  EXPECT_THAT(keys.error().what(), testing::HasSubstr("Failed to get valid key phrase from KMS"));
}

TEST(SeedKeys, FollowFromTheSeed) {
  auto evidence = make_test_evidence();
  const auto a = derive_seed_keys(base::Bytes(32, 1), evidence).value();
  const auto b = derive_seed_keys(base::Bytes(32, 1), evidence).value();
  const auto c = derive_seed_keys(base::Bytes(32, 2), evidence).value();
  EXPECT_EQ(a.keys.k256_key.text(), b.keys.k256_key.text());
  EXPECT_EQ(a.keys.disk_crypt_key.text(), b.keys.disk_crypt_key.text());
  EXPECT_EQ(a.keys.ca_spki, b.keys.ca_spki);
  EXPECT_NE(a.keys.k256_key.text(), c.keys.k256_key.text());
  EXPECT_NE(a.keys.disk_crypt_key.text(), a.keys.k256_key.text());
  EXPECT_EQ(a.provider_event, R"({"name":"none","id":""})");
  EXPECT_TRUE(a.keys.k256_signature.empty());
}

TEST(SeedKeys, HaveACaWithEvidence) {
  auto evidence = make_test_evidence();
  const auto keys = derive_seed_keys(base::Bytes(32, 1), evidence).value();
  ASSERT_TRUE(keys.local_ca.has_value());
  EXPECT_EQ(keys.local_ca->certificate.common_name(), "App Root Cert");
  EXPECT_TRUE(keys.local_ca->certificate.is_ca());
  const auto anchors = attest::TrustAnchors::insecure_simulated(evidence.platform().root_pem()).value();
  const auto verified =
      attest::verify_certificate_evidence(keys.local_ca->certificate.der(), anchors, 1'800'000'000);
  ASSERT_TRUE(verified.has_value()) << verified.error().what();
  EXPECT_TRUE(verified->has_value());
}

TEST(AppKeysFile, IsPrivateAndHasTheFormat) {
  const TempDir dir;
  BootKeys keys;
  keys.keys = make_test_keys();
  keys.kms_url = "https://kms";
  ASSERT_TRUE(write_keys(dir / ".appkeys.json", keys).has_value());
  struct stat info{};
  ASSERT_EQ(::stat((dir / ".appkeys.json").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 07777, 0600u);
  const auto json = nlohmann::json::parse(base::read_file(dir / ".appkeys.json").value());
  EXPECT_EQ(json["disk_crypt_key"], std::string(64, '0'));
  EXPECT_EQ(json["k256_key"].get<std::string>().size(), 64u);
  EXPECT_EQ(json["key_provider"]["Kms"]["url"], "https://kms");
  EXPECT_EQ(json["key_provider"]["Kms"]["pubkey"], "010203");
}

}  // namespace
}  // namespace dstack::guest
