#include "host/image_sums.h"

#include <algorithm>
#include <array>
#include <set>

#include "base/bytes.h"
#include "base/format.h"
#include "base/fs.h"
#include "base/log.h"

namespace dstack::host {

namespace {

using base::Code;

constexpr std::size_t k_max_lines = 1000;
constexpr const char* k_fix = "fetch or build the image again";

// Not listed by the image format: the SNP firmware is in the launch measurement, the log is for development,
// the list of packages is for people.
constexpr std::array<std::string_view, 3> k_never_listed = {"ovmf-sev.fd", "measurement.gcp.eventlog.bin",
                                                            k_image_packages};

std::unexpected<base::Error> corrupt(std::string why) {
  return base::fail(Code::image_corrupt, std::move(why), k_fix);
}

}  // namespace

Result<std::vector<FileSum>> parse_sums(std::string_view text) {
  std::vector<FileSum> out;
  std::set<std::string_view> names;
  while (!text.empty()) {
    const auto line = text.substr(0, text.find('\n'));
    text.remove_prefix(std::min(text.size(), line.size() + 1));
    const auto bytes = line.size() > 66 ? base::from_hex(line.substr(0, 64)) : std::nullopt;
    const auto name = line.size() > 66 ? line.substr(66) : std::string_view();
    if (!bytes || bytes->size() != 32 || line.substr(64, 2) != "  " || !check_image_name(name)) {
      return corrupt(base::format("sha256sum.txt: line {} is malformed", out.size() + 1));
    }
    if (!names.insert(name).second || out.size() >= k_max_lines) {
      return corrupt(base::format("sha256sum.txt lists {} twice, or too much", base::escape_control(name)));
    }
    out.push_back({base::to_hex(*bytes), std::string(name)});
  }
  if (out.empty()) {
    return corrupt("sha256sum.txt is empty");
  }
  return out;
}

Result<> verify_published_image(const Image& image) {
  DS_CHECK(verify_image_digest(image));
  DS_TRY(const auto text, base::read_file(image.directory / k_image_sums));
  DS_TRY(const auto sums, parse_sums(text));
  std::error_code error;
  for (fs::directory_iterator it(image.directory, error), end; !error && it != end; it.increment(error)) {
    const auto name = it->path().filename().string();
    const bool root_disk = name == image.metadata.rootfs || name == image.metadata.hda;
    const bool listed = std::ranges::any_of(sums, [&](const FileSum& sum) { return sum.name == name; });
    if (it->is_symlink(error) || !it->is_regular_file(error)) {
      return corrupt(
          base::format("image {}: {} is not a regular file", image.name, base::escape_control(name)));
    }
    if (!listed && !root_disk && name != k_image_sums && name != k_image_digest &&
        std::ranges::find(k_never_listed, name) == k_never_listed.end()) {
      return corrupt(
          base::format("image {}: sha256sum.txt does not list {}", image.name, base::escape_control(name)));
    }
  }
  if (error) {
    return base::fail(Code::io,
                      base::format("cannot list {}: {}", image.directory.string(), error.message()));
  }
  return {};
}

}  // namespace dstack::host
