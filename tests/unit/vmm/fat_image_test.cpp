#include "vmm/fat_image.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cstring>
#include <map>

#include "base/bytes.h"
#include "base/fs.h"
#include "unit/temp_dir.h"

namespace dstack::vmm {
namespace {

// A reader of its own, from the on-disk format: what the guest's kernel does.
class Fat {
 public:
  explicit Fat(const fs::path& path) : m_data(base::read_file(path, 2 * k_fat_image_size).value_or("")) {}

  const std::string& data() const { return m_data; }
  std::uint32_t at(std::size_t offset, int bytes) const {
    std::uint32_t value = 0;
    for (int i = 0; i < bytes; ++i) {
      value |= static_cast<std::uint32_t>(static_cast<std::uint8_t>(m_data[offset + i])) << (8 * i);
    }
    return value;
  }
  std::uint32_t sector() const { return at(11, 2); }
  std::uint32_t fat_start() const { return at(14, 2) * sector(); }
  std::uint32_t fat_size() const { return at(36, 4) * sector(); }
  std::uint32_t data_start() const { return fat_start() + at(16, 1) * fat_size(); }
  std::uint32_t cluster_size() const { return at(13, 1) * sector(); }
  std::uint32_t clusters() const { return (at(32, 4) * sector() - data_start()) / cluster_size(); }

  std::string chain(std::uint32_t cluster) const {
    std::string out;
    for (std::uint32_t steps = 0; cluster >= 2 && cluster < 0x0ffffff8 && steps <= clusters(); ++steps) {
      out += m_data.substr(data_start() + std::size_t{cluster - 2} * cluster_size(), cluster_size());
      const auto next = at(fat_start() + cluster * 4, 4);
      EXPECT_EQ(next, at(fat_start() + fat_size() + cluster * 4, 4)) << "both tables agree";
      cluster = next & 0x0fffffffU;
    }
    return out;
  }

  std::map<std::string, std::string> files(std::string& label) const {
    std::map<std::string, std::string> out;
    const auto root = chain(at(44, 4));
    std::map<int, std::string> pieces;
    for (std::size_t i = 0; i + 32 <= root.size() && root[i] != 0; i += 32) {
      const auto* entry = reinterpret_cast<const std::uint8_t*>(root.data() + i);
      if (entry[11] == 0x0f) {
        std::string piece;
        for (const int place : {1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30}) {
          const auto unit = entry[place] | entry[place + 1] << 8;
          if (unit == 0 || unit == 0xffff) {
            break;
          }
          piece += static_cast<char>(unit);
        }
        pieces[entry[0] & 0x3f] = piece;
      } else if ((entry[11] & 0x08) != 0) {
        label = root.substr(i, 11);
      } else {
        std::string name;
        for (const auto& [number, piece] : pieces) {
          name += piece;
        }
        pieces.clear();
        std::uint32_t size = 0;
        std::memcpy(&size, entry + 28, 4);
        const auto cluster =
            static_cast<std::uint32_t>(entry[26] | entry[27] << 8 | entry[20] << 16 | entry[21] << 24);
        out[name] = chain(cluster).substr(0, size);
      }
    }
    return out;
  }

 private:
  std::string m_data;
};

void put(const fs::path& path, std::string_view text) {
  ASSERT_TRUE(base::write_file_atomic(path, text));
}

TEST(FatImage, HoldsTheFilesUnderTheirNames) {
  test::TempDir lab;
  fs::create_directory(lab / "shared");
  std::map<std::string, std::string> wanted;
  wanted["app-compose.json"] = std::string(100'000, 'c');
  wanted[".sys-config.json"] = "{}";
  wanted[".user-config"] = "";
  wanted["exactly-13-ch"] = std::string(512, 'x');
  wanted[std::string(200, 'n')] = std::string(513, 'y');
  for (const auto& [name, text] : wanted) {
    put(lab / "shared" / name, text);
  }
  put(lab / "secret", "outside");
  fs::create_symlink(lab / "secret", lab / "shared/link");
  fs::create_directory(lab / "shared/directory");
  ASSERT_EQ(::mkfifo((lab / "shared/fifo").c_str(), 0600), 0);

  const auto image = lab / "shared.img";
  const auto written = write_fat_image(lab / "shared", image);
  ASSERT_TRUE(written) << written.error().what();
  EXPECT_EQ(fs::file_size(image), k_fat_image_size);
  struct stat info{};
  ASSERT_EQ(::stat(image.c_str(), &info), 0);
  EXPECT_LT(info.st_blocks * 512, 4 * 1024 * 1024) << "the image is sparse";
  EXPECT_EQ(info.st_mode & 0777, 0600U);

  const Fat fat(image);
  EXPECT_GE(fat.clusters(), 65525U) << "fewer would be read as FAT16";
  EXPECT_EQ(fat.at(510, 2), 0xaa55U);
  EXPECT_EQ(fat.data().substr(0, 512), fat.data().substr(6 * 512, 512)) << "the backup boot sector";
  std::string label;
  EXPECT_EQ(fat.files(label), wanted);
  EXPECT_EQ(label, "DSTACKSHR  ");
  EXPECT_EQ(fat.data().substr(71, 11), "DSTACKSHR  ");
}

TEST(FatImage, EqualInputsGiveEqualBytes) {
  test::TempDir lab;
  fs::create_directory(lab / "shared");
  put(lab / "shared/b", "2");
  put(lab / "shared/a", "1");
  ASSERT_TRUE(write_fat_image(lab / "shared", lab / "one.img"));
  put(lab / "shared/a", "1");
  ASSERT_TRUE(write_fat_image(lab / "shared", lab / "two.img"));
  EXPECT_EQ(Fat(lab / "one.img").data() == Fat(lab / "two.img").data(), true);
}

TEST(FatImage, FailuresLeaveTheOldImageAndNothingElse) {
  test::TempDir lab;
  fs::create_directory(lab / "shared");
  put(lab / "shared/a", "1");
  put(lab / "shared.img", "old");
  fs::create_directory(lab / "big");
  put(lab / "big/a", "");
  fs::resize_file(lab / "big/a", 121ULL * 1024 * 1024);
  const auto too_large = write_fat_image(lab / "big", lab / "shared.img");
  ASSERT_FALSE(too_large);
  EXPECT_EQ(too_large.error().code, base::Code::too_large);
  EXPECT_FALSE(write_fat_image(lab / "absent", lab / "shared.img"));
  EXPECT_FALSE(write_fat_image(lab / "shared", lab / "no/such/place.img"));
  EXPECT_FALSE(write_fat_image(lab / "shared", lab / "shared.img", "LABELTOOLONG"));
  put(lab / "shared/bad?name", "");
  EXPECT_FALSE(write_fat_image(lab / "shared", lab / "shared.img"));
  EXPECT_EQ(base::read_file(lab / "shared.img").value_or(""), "old");
  std::size_t entries = 0;
  for ([[maybe_unused]] const auto& entry : fs::directory_iterator(lab.path())) {
    ++entries;
  }
  EXPECT_EQ(entries, 3U) << "no temporary file is left";
}

}  // namespace
}  // namespace dstack::vmm
