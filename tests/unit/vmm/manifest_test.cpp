#include "vmm/manifest.h"

#include <gtest/gtest.h>

#include <set>

namespace dstack::vmm {
namespace {

Manifest sample() {
  Manifest manifest;
  manifest.id = "3f2504e0-4f89-41d3-9a0c-0305e82c3301";
  manifest.name = "hello \"world\"";
  manifest.app_id = "15f68447bacdce56acc12aab6e04584a63336059";
  manifest.image = "dstack-0.1.0";
  manifest.vcpu = 2;
  manifest.memory = 2048;
  manifest.disk_size = 20;
  manifest.ports = {{"tcp", "127.0.0.1", 18080, 80}};
  manifest.created_at_ms = 1'795'345'662'411;
  manifest.kms_urls = {"https://10.0.2.2:9100"};
  manifest.simulated_tee = "tdx";
  manifest.networks = {ManifestNetwork{}};
  manifest.volumes = {"/var/lib/dstack/volumes/a.img"};
  return manifest;
}

TEST(Manifest, RoundTrip) {
  const auto text = manifest_to_json(sample());
  const auto again = parse_manifest(text);
  ASSERT_TRUE(again) << again.error().what();
  EXPECT_EQ(*again, sample());
  EXPECT_EQ(manifest_to_json(*again), text);
  EXPECT_NE(text.find("\"networking\":{"), std::string::npos)
      << "older readers look for the first network there";
}

TEST(Manifest, OlderOneOfUpstream) {
  const auto manifest = parse_manifest(R"({
    "port_map":[{"to":8000,"from":9201,"protocol":"tcp","address":"0.0.0.0"}],
    "id":"abc_1","name":"kms","app_id":"a0","vcpu":4,"memory":8192,"disk_size":20,"image":"dstack-0.5.2",
    "created_at_ms":1717171717171,
    "gpus":{"attach_mode":"listed","gpus":[{"slot":"01:00.0"}],"bridges":[]},
    "networking":{"mode":"bridge","bridge":"br0"}, "unknown":{"x":[1]}})");
  ASSERT_TRUE(manifest) << manifest.error().what();
  EXPECT_EQ(manifest->ports[0].host_port, 9201);
  EXPECT_EQ(manifest->ports[0].vm_port, 8000);
  EXPECT_FALSE(manifest->no_tee);
  EXPECT_TRUE(manifest->has_gpus);
  EXPECT_TRUE(manifest->kms_urls.empty());
  ASSERT_EQ(manifest->networks.size(), 1U);
  EXPECT_EQ(manifest->networks[0].bridge, "br0");
}

TEST(Manifest, NetworksWinOverTheLegacyKey) {
  auto manifest = sample();
  manifest.networks[0].net = "10.9.0.0/24";
  auto text = manifest_to_json(manifest);
  text.replace(text.rfind("10.9.0.0/24"), 11, "10.8.0.0/24");
  const auto again = parse_manifest(text);
  ASSERT_TRUE(again);
  EXPECT_EQ(again->networks[0].net, "10.9.0.0/24");
}

TEST(Manifest, BadOnesAreRefusedWithTheKey) {
  const auto refused = [](std::string text, const std::string& from, const std::string& to,
                          const char* word) {
    const auto at = text.find(from);
    ASSERT_NE(at, std::string::npos) << from;
    text.replace(at, from.size(), to);
    const auto manifest = parse_manifest(text);
    ASSERT_FALSE(manifest) << to;
    EXPECT_EQ(manifest.error().code, base::Code::vm_record);
    EXPECT_NE(manifest.error().what().find(word), std::string::npos) << manifest.error().what();
  };
  const auto text = manifest_to_json(sample());
  refused(text, "\"vcpu\":2", "\"vcpu\":-2", "vcpu");
  refused(text, "\"vcpu\":2", "\"vcpu\":99999999999", "vcpu");
  refused(text, "\"vcpu\":2", "\"xcpu\":2", "vcpu");
  refused(text, "\"memory\":2048", "\"memory\":\"2048\"", "memory");
  refused(text, "\"from\":18080", "\"from\":70000", "from");
  refused(text, "\"protocol\":\"tcp\"", "\"protocol\":\"sctp\"", "protocol");
  refused(text, "\"volumes\":[", "\"volumes\":7,\"x\":[", "volumes");
  refused(text, "3f2504e0-4f89", "../../../etc", "id");
  EXPECT_FALSE(parse_manifest(""));
  EXPECT_FALSE(parse_manifest("[]"));
  EXPECT_FALSE(parse_manifest(text.substr(0, text.size() / 2)));
}

TEST(VmId, Rules) {
  EXPECT_TRUE(valid_vm_id("a"));
  EXPECT_TRUE(valid_vm_id("A-b_9"));
  EXPECT_TRUE(valid_vm_id(std::string(64, 'x')));
  for (const std::string bad : {"", ".", "..", "a/b", "a.b", "/etc", "a b", "a\n", "ä"}) {
    EXPECT_FALSE(valid_vm_id(bad)) << bad;
  }
  EXPECT_FALSE(valid_vm_id(std::string(65, 'x')));
  EXPECT_FALSE(valid_vm_id(std::string_view("a\0b", 3)));
}

TEST(VmId, NewOnesAreRandomUuids) {
  std::set<std::string> seen;
  for (int i = 0; i < 100; ++i) {
    const auto id = new_vm_id();
    ASSERT_TRUE(id);
    ASSERT_EQ(id->size(), 36U);
    EXPECT_EQ((*id)[14], '4');
    EXPECT_NE(std::string("89ab").find((*id)[19]), std::string::npos);
    EXPECT_TRUE(valid_vm_id(*id));
    seen.insert(*id);
  }
  EXPECT_EQ(seen.size(), 100U);
}

}  // namespace
}  // namespace dstack::vmm
