#include "host/initramfs.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace dstack::host {
namespace {

using testing::ElementsAre;

constexpr const char* k_dep =
    "kernel/net/veth.ko.xz:\n"
    "kernel/md/dm-verity.ko.xz: kernel/md/dm-bufio.ko.xz kernel/md/dm-mod.ko.xz\n"
    "kernel/md/dm-bufio.ko.xz: kernel/md/dm-mod.ko.xz\n"
    "kernel/md/dm-mod.ko.xz:\n"
    "malformed line\n";

TEST(ModuleTable, OrdersByNeed) {
  const ModuleTable table(k_dep, "kernel/fs/ext4.ko\n");
  EXPECT_THAT(table.insertion_order({"dm_verity", "veth", "dm-bufio"}).value(),
              ElementsAre("kernel/md/dm-mod.ko.xz", "kernel/md/dm-bufio.ko.xz", "kernel/md/dm-verity.ko.xz",
                          "kernel/net/veth.ko.xz"));
}

TEST(ModuleTable, SkipsBuiltInAndNamesMissing) {
  const ModuleTable table(k_dep, "kernel/fs/ext4.ko\n");
  EXPECT_TRUE(table.insertion_order({"ext4"}).value().empty());
  const auto missing = table.insertion_order({"nope"});
  ASSERT_FALSE(missing.has_value());
  EXPECT_NE(missing.error().what().find("nope"), std::string::npos);
}

TEST(ModuleName, DropsDirectoryAndEnding) {
  EXPECT_EQ(module_name("kernel/drivers/net/virtio_net.ko.xz"), "virtio_net");
  EXPECT_EQ(module_name("dm-verity"), "dm_verity");
}

TEST(Cpio, WritesNewc) {
  CpioWriter cpio;
  cpio.directory("d");
  cpio.file("d/f", 0755, "hello");
  const auto bytes = cpio.finish();
  EXPECT_EQ(bytes.size() % 512, 0u);
  EXPECT_EQ(bytes.substr(0, 6 + 8 + 8), "0707010000000100" + std::string("0041ed"));
  // Header 110, name "d\0" -> 112; no data.
  EXPECT_EQ(bytes.substr(110, 2), std::string("d\0", 2));
  EXPECT_EQ(bytes.substr(112, 6), "070701");
  EXPECT_EQ(bytes.substr(112 + 14, 8), "000081ed");
  EXPECT_EQ(bytes.substr(112 + 54, 8), "00000005");
  EXPECT_EQ(bytes.substr(112 + 110, 4), std::string("d/f\0", 4));
  EXPECT_EQ(bytes.substr(112 + 116, 5), "hello");
  EXPECT_NE(bytes.find("TRAILER!!!"), std::string::npos);
}

base::Bytes bz_image(std::string_view payload) {
  base::Bytes image(0x250 + 4096, 0);
  image[0x1f1] = 1;
  std::copy_n("HdrS", 4, image.begin() + 0x202);
  image[0x248] = 16;
  image[0x24c] = static_cast<std::uint8_t>(payload.size());
  std::copy(payload.begin(), payload.end(), image.begin() + 1024 + 16);
  return image;
}

TEST(KernelPayload, FindsThePackedKernel) {
  const auto image = bz_image("\x28\xb5\x2f\xfd..data..SIZE");
  const auto payload = kernel_payload(image);
  ASSERT_TRUE(payload.has_value());
  EXPECT_STREQ(payload->tool, "zstd");
  EXPECT_EQ(base::as_text(payload->data), "\x28\xb5\x2f\xfd..data..");
}

TEST(KernelPayload, RefusesOtherFiles) {
  EXPECT_FALSE(kernel_payload(base::Bytes(100)).has_value());
  EXPECT_FALSE(kernel_payload(base::Bytes(10000)).has_value());
  EXPECT_FALSE(kernel_payload(bz_image("unknown packing")).has_value());
  auto image = bz_image("\x28\xb5\x2f\xfd..data..SIZE");
  image[0x24f] = 0x7f;
  EXPECT_FALSE(kernel_payload(image).has_value()) << "longer than the file";
}

}  // namespace
}  // namespace dstack::host
