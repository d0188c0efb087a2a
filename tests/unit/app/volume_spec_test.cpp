#include "app/volume_spec.h"

#include <gtest/gtest.h>

using namespace dstack;
using app::parse_volume_spec;

namespace {
const std::string k_root(64, 'a');
}

TEST(VolumeSpec, ThreeParts) {
  EXPECT_EQ(parse_volume_spec("m.img:" + k_root + ":/run/models"),
            (app::VerityVolume{"m.img", k_root, "/run/models"}));
  // Split at most twice: the target may hold colons.
  EXPECT_EQ(parse_volume_spec("m.img:" + k_root + ":/a:b")->target, "/a:b");
  EXPECT_EQ(parse_volume_spec("m.img:" + std::string(64, 'A') + ":/a")->verity_root, k_root);
}

TEST(VolumeSpec, RefusesEverythingElse) {
  for (const std::string& bad :
       {std::string(), std::string("m.img"), "m.img:" + k_root, ":" + k_root + ":/a", "a/b:" + k_root + ":/a",
        "..:" + k_root + ":/a", "a..b:" + k_root + ":/a", "a,b:" + k_root + ":/a", "a=b:" + k_root + ":/a",
        "m:" + k_root.substr(1) + ":/a", "m:" + k_root + "a:/a", "m:0x" + k_root.substr(2) + ":/a",
        "m:" + std::string(64, 'g') + ":/a", "m:" + k_root + ":a", "m:" + k_root + ":",
        "m\n:" + k_root + ":/a"}) {
    auto volume = parse_volume_spec(bad);
    EXPECT_FALSE(volume) << bad;
    if (!volume) {
      EXPECT_EQ(volume.error().code, base::Code::bad_volume);
    }
  }
}

TEST(VolumeSpec, DuplicateTargetsAreRefusedDuplicateRootsAreNot) {
  EXPECT_FALSE(app::check_volume_targets({{"a", k_root, "/x"}, {"b", k_root, "/x"}}));
  EXPECT_TRUE(app::check_volume_targets({{"a", k_root, "/x"}, {"a", k_root, "/y"}}));
}
