// What the guest reads from the heads of disks that it does not trust: volume, FAT and ext4.
#include "fuzz.h"
#include "guest/block.h"

using namespace dstack;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto head = fuzz::bytes(data, size);
  if (const auto root = guest::volume_root(head)) {
    FUZZ_EXPECT(root->size() == 64);
  }
  (void)guest::fat_label(head);
  (void)guest::ext_info(head);
  return 0;
}
