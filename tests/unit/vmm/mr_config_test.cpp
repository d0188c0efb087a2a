#include "vmm/mr_config.h"

#include <gtest/gtest.h>

namespace dstack::vmm {
namespace {

using base::Bytes;

MrConfigDocument sample() {
  MrConfigDocument document;
  document.app_id = Bytes(20, 0x11);
  document.compose_hash = Bytes(32, 0x22);
  document.instance_id = Bytes(20, 0x44);
  document.key_provider = "kms";
  document.key_provider_id = Bytes(32, 0x33);
  return document;
}

TEST(MrConfig, Version1Vector) {
  crypto::Hash256 hash;
  hash.fill(0x22);
  EXPECT_EQ(base::to_base64(mr_config_v1(hash)),
            "ASIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiAAAAAAAAAAAAAAAAAAAA");
}

TEST(MrConfig, Version3Vector) {
  auto document = sample();
  document.gpu_policy_hash = Bytes(32, 0x55);
  const auto text = mr_config_document(document);
  EXPECT_EQ(base::to_base64(mr_config_v3_hash(text)), "kOXP+lcbIsLKhGhy1vt7BxqhNG8aH4f3KGnEeznZQJk=");
  EXPECT_EQ(base::to_base64(mr_config_v3(text)),
            "A5Dlz/pXGyLCyoRoctb7ewcaoTRvGh+H9yhpxHs52UCZAAAAAAAAAAAAAAAAAAAA");
}

TEST(MrConfig, OptionalMembersAreLeftOutOrEmpty) {
  auto document = sample();
  EXPECT_EQ(mr_config_document(document).find("gpu_policy_hash"), std::string::npos);
  EXPECT_EQ(mr_config_document(document).find("init_script_hashes"), std::string::npos);
  document.init_script_hashes.emplace();
  EXPECT_NE(mr_config_document(document).find("\"init_script_hashes\":[],\"instance_id\""),
            std::string::npos);
}

TEST(MrConfig, InstanceIdVector) {
  const auto seed = base::from_hex("4befb40617034796ce9aad5b07b812359d8817bd");
  EXPECT_EQ(base::to_hex(instance_id(*seed, Bytes(20, 0x11))), "d39f567f180c10b486f27bc674428b4c8e0c32b8");
}

}  // namespace
}  // namespace dstack::vmm
