#include "app/volume_spec.h"

#include <algorithm>
#include <set>

#include "base/bytes.h"
#include "base/format.h"
#include "base/log.h"

namespace dstack::app {
namespace {

using base::Code;

std::unexpected<base::Error> refuse(std::string_view what, std::string_view why) {
  return base::fail(Code::bad_volume,
                    base::format("volume \"{}\": {}", base::escape_control(what.substr(0, 120)), why),
                    "write NAME:VERITY_ROOT:TARGET, for example "
                    "models.img:<64 hex digits>:/run/models");
}

}  // namespace

base::Result<> check_volume(const VerityVolume& volume) {
  const std::string& name = volume.source;
  if (name.empty()) {
    return refuse(name, "the name is empty");
  }
  if (name.find_first_of("/,=") != std::string::npos || name.find("..") != std::string::npos ||
      std::any_of(name.begin(), name.end(), [](unsigned char c) { return c < 0x20 || c == 0x7f; })) {
    return refuse(name, "the name holds \"/\", \"..\", \",\", \"=\" or a control character");
  }
  const auto root = base::from_hex(volume.verity_root);
  if (!root || root->size() != 32) {
    return refuse(name, "the verity root is not 64 hex digits");
  }
  if (!volume.target.starts_with('/') || volume.target.find('\0') != std::string::npos) {
    return refuse(name, "the target is not an absolute path");
  }
  return {};
}

base::Result<VerityVolume> parse_volume_spec(std::string_view text) {
  const auto first = text.find(':');
  const auto second = first == std::string_view::npos ? first : text.find(':', first + 1);
  if (second == std::string_view::npos) {
    return refuse(text, "it does not have three parts");
  }
  VerityVolume volume{std::string(text.substr(0, first)),
                      std::string(text.substr(first + 1, second - first - 1)),
                      std::string(text.substr(second + 1))};
  std::transform(volume.verity_root.begin(), volume.verity_root.end(), volume.verity_root.begin(),
                 [](char c) { return c >= 'A' && c <= 'F' ? static_cast<char>(c - 'A' + 'a') : c; });
  DS_CHECK(check_volume(volume));
  return volume;
}

base::Result<> check_volume_targets(const std::vector<VerityVolume>& volumes) {
  std::set<std::string_view> targets;
  for (const VerityVolume& volume : volumes) {
    if (!targets.insert(volume.target).second) {
      return base::fail(Code::bad_volume,
                        base::format("two volumes have the target {}", base::escape_control(volume.target)),
                        "give each volume its own target");
    }
  }
  return {};
}

}  // namespace dstack::app
