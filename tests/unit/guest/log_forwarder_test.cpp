#include "guest/log_forwarder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "unit/guest/temp_dir.h"

namespace dstack::guest {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

class Forwarding : public testing::Test {
 protected:
  void append(const std::string& text) {
    std::ofstream(m_dir / "overlay-containers/abcdef0123456789/userdata/ctr.log", std::ios::app) << text;
  }
  Forwarding() {
    m_dir.write("overlay-containers/abcdef0123456789/userdata/ctr.log", "");
    m_dir.write("overlay-containers/other/userdata/config.json", "{}");
  }
  std::vector<std::string> look() {
    m_lines.clear();
    m_forwarder.poll();
    return m_lines;
  }
  TempDir m_dir;
  std::vector<std::string> m_lines;
  LogForwarder m_forwarder{m_dir.path(), [this](std::string_view line) { m_lines.emplace_back(line); }};
};

TEST(K8sLog, HasTheTextBehindThreeFields) {
  EXPECT_EQ(k8s_log_text("2026-01-02T03:04:05.6+00:00 stdout F hello world"), "hello world");
  EXPECT_EQ(k8s_log_text("2026 stderr P "), "");
  EXPECT_EQ(k8s_log_text("nothing"), "");
}

TEST_F(Forwarding, GivesEachLineOnce) {
  EXPECT_THAT(look(), IsEmpty());
  append("t stdout F one\nt stdout F two\n");
  EXPECT_THAT(look(), ElementsAre("[abcdef012345] one", "[abcdef012345] two"));
  EXPECT_THAT(look(), IsEmpty());
}

TEST_F(Forwarding, WaitsForTheEndOfALine) {
  append("t stdout F ha");
  EXPECT_THAT(look(), IsEmpty());
  append("lf\n");
  EXPECT_THAT(look(), ElementsAre("[abcdef012345] half"));
}

TEST_F(Forwarding, StartsAgainAfterRotation) {
  append("t stdout F one\n");
  look();
  m_dir.write("overlay-containers/abcdef0123456789/userdata/ctr.log", "t stdout F 1\n");
  EXPECT_THAT(look(), ElementsAre("[abcdef012345] 1"));
}

TEST_F(Forwarding, LeavesOutLinesOfEarlierBoots) {
  append("2026-01-02T03:04:05.123+00:00 stdout F old\n2026-01-02T03:04:06.000+00:00 stdout F new\n");
  LogForwarder later(
      m_dir.path(), [this](std::string_view line) { m_lines.emplace_back(line); }, "2026-01-02T03:04:06");
  later.poll();
  EXPECT_THAT(m_lines, ElementsAre("[abcdef012345] new"));
}

TEST(BootTime, HasTheFormOfLogTimes) {
  const auto text = boot_time();
  ASSERT_EQ(text.size(), 19u);
  EXPECT_EQ(text[10], 'T');
  EXPECT_GT(text, "2020");
}

TEST_F(Forwarding, UsesTheContainersName) {
  m_dir.write("overlay-containers/containers.json",
              R"([{"id":"zz","names":["x"]},7,{"id":"abcdef0123456789","names":["dstack-web-1"]}])");
  append("t stdout F hi\n");
  EXPECT_THAT(look(), ElementsAre("[dstack-web-1] hi"));
}

TEST_F(Forwarding, EscapesWhatCouldForgeLines) {
  append("t stdout F a\x1b[2Jb\rc\n");
  EXPECT_THAT(look(), ElementsAre("[abcdef012345] a\\x1b[2Jb\\x0dc"));
}

}  // namespace
}  // namespace dstack::guest
