// Published guest images: which release, which of its files (spec/host.md section 1.9). Pure functions of
// text.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace dstack::host {

inline constexpr const char* k_release_api = "https://api.github.com/repos";

struct ReleaseAsset {
  std::string name;
  std::string url;
  std::optional<std::string> sha256;  // lower hex
  std::optional<std::uint64_t> size;
};

struct Release {
  std::string tag;
  std::vector<ReleaseAsset> assets;
};

// "guest-os-v0.6.0", "v0.6.0" or "0.6.0" -> "0.6.0": three numbers, the third possibly followed by "-..." or
// by further dot parts. Code::invalid_argument otherwise.
base::Result<std::string> parse_release_version(std::string_view text);
// What `install --image` may mean beside an image that is there: a published one.
struct ReleaseWish {
  std::string version;
  bool gpu = false;
};
// "dstack-nvidia-<v>", "dstack-<v>", "v<v>" or "<v>", v starting with a digit; nullopt for every other name
// ("dstack-dev-<v>" too).
std::optional<ReleaseWish> as_release(std::string_view image_name);
// Where the release of a version is, below the API's base.
std::string release_path(const std::string& version);
inline constexpr const char* k_release_list_path = "/Dstack-TEE/dstack/releases?per_page=100";
inline constexpr const char* k_latest_release_path = "/Dstack-TEE/meta-dstack/releases/latest";
// The version in a release's tag.
std::string version_of_tag(std::string_view tag);

// Surrounding white space and trailing slashes dropped; an http or https URL without query.
base::Result<std::string> clean_release_api(std::string_view text);

// Total: any text gives a value or Code::release. Assets whose names are no file names are left out.
base::Result<Release> parse_release(std::string_view json);
// The first of a list whose tag starts with "guest-os-v"; nullopt when none does.
base::Result<std::optional<Release>> first_guest_release(std::string_view json);

// The first asset that is an image for this kind of machine. Code::release names what there is.
base::Result<ReleaseAsset> choose_asset(const Release& release, bool gpu);
// What an asset is unpacked to, going by its name.
std::string asset_stem(const std::string& asset_name);

}  // namespace dstack::host
