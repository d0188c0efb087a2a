#include "host/image_sums.h"

#include <gmock/gmock.h>

#include <fstream>

#include "unit/host/release_server.h"
#include "unit/temp_dir.h"

using namespace dstack;
using testing::HasSubstr;

namespace {

const std::string k_hex(64, 'a');

class PublishedImage : public testing::Test {
 protected:
  std::string problem() {
    std::filesystem::remove_all(m_dir / "dstack-0.6.0");
    std::filesystem::create_directories(m_dir / "dstack-0.6.0");
    for (const auto& [name, data] : m_files) {
      std::ofstream(m_dir / "dstack-0.6.0" / name) << data;
    }
    const auto image = host::load_image(m_dir / "dstack-0.6.0");
    if (!image) {
      return image.error().what();
    }
    const auto verified = host::verify_published_image(*image);
    return verified ? "fine" : verified.error().what();
  }

  test::TempDir m_dir;
  std::map<std::string, std::string> m_files = host::test::image_files();
};

}  // namespace

TEST(Sums, AreRead) {
  const auto sums = host::parse_sums(k_hex + "  a\n" + std::string(64, 'B') + "  b c");
  ASSERT_TRUE(sums) << sums.error().what();
  ASSERT_EQ(sums->size(), 2U);
  EXPECT_EQ((*sums)[1].name, "b c");
  EXPECT_EQ((*sums)[1].sha256, std::string(64, 'b'));
}

TEST(Sums, RefusesWhatCouldMeanAnotherFile) {
  for (const auto& text : {std::string(), std::string("\n"), k_hex, k_hex + "  ", k_hex + " a", k_hex + " *a",
                           k_hex + "  ../a", k_hex + "  /a", k_hex + "  .a", k_hex + "  a/b",
                           k_hex.substr(1) + "g  a", k_hex + "  a\n" + k_hex + "  a\n", k_hex + "  a\n\n",
                           k_hex + "  a\r\n", k_hex + std::string("  a\0b", 5)}) {
    EXPECT_FALSE(host::parse_sums(text)) << text;
  }
}

TEST_F(PublishedImage, InOrder) {
  EXPECT_EQ(problem(), "fine");
  m_files["ovmf-sev.fd"] = "not listed by the format";
  EXPECT_EQ(problem(), "fine");
}

TEST_F(PublishedImage, ChangedFile) {
  m_files["ovmf.fd"] += "x";
  EXPECT_THAT(problem(), HasSubstr("ovmf.fd was changed"));
}

TEST_F(PublishedImage, MissingFile) {
  m_files.erase("ovmf.fd");
  EXPECT_THAT(problem(), HasSubstr("ovmf.fd is missing"));
}

TEST_F(PublishedImage, ExtraFile) {
  m_files["extra"] = "x";
  EXPECT_THAT(problem(), HasSubstr("does not list extra"));
}

TEST_F(PublishedImage, WrongDigest) {
  m_files["digest.txt"] = k_hex;
  EXPECT_THAT(problem(), HasSubstr("digest.txt is not the sha256"));
  m_files["digest.txt"] = "";
  EXPECT_THAT(problem(), HasSubstr("not a sha256"));
  m_files.erase("digest.txt");
  EXPECT_THAT(problem(), HasSubstr("no digest.txt"));
}

TEST_F(PublishedImage, SumsThatLeaveTheKernelOut) {
  m_files["sha256sum.txt"] = crypto::sha256_hex(m_files["metadata.json"]) + "  metadata.json\n";
  m_files["digest.txt"] = crypto::sha256_hex(m_files["sha256sum.txt"]);
  EXPECT_THAT(problem(), HasSubstr("does not list bzImage"));
}

TEST_F(PublishedImage, Links) {
  ASSERT_EQ(problem(), "fine");
  std::filesystem::create_symlink("/etc/passwd", m_dir / "dstack-0.6.0/extra");
  const auto image = host::load_image(m_dir / "dstack-0.6.0");
  ASSERT_TRUE(image);
  EXPECT_FALSE(host::verify_published_image(*image));
}
