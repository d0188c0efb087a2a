#include "host/release.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/bytes.h"
#include "base/format.h"
#include "base/log.h"
#include "host/image.h"
#include "net/url.h"

namespace dstack::host {

using base::Code;
using base::Result;
using Json = nlohmann::json;

namespace {

constexpr std::string_view k_guest_tag = "guest-os-v";
constexpr std::string_view k_suffix = ".tar.gz";
constexpr std::size_t k_max_assets = 1000;
constexpr std::size_t k_max_depth = 32;

std::unexpected<base::Error> unusable(std::string why) {
  return base::fail(base::Error{Code::release, "the release server's answer is not usable", std::move(why),
                                "check --release-api-base-url; it must speak GitHub's release API"});
}

bool all_digits(std::string_view text) {
  return !text.empty() && text.size() <= 5 &&
         std::ranges::all_of(text, [](char c) { return c >= '0' && c <= '9'; });
}

bool harmless(std::string_view text) {
  return !text.empty() && text.size() <= 64 && std::ranges::all_of(text, [](char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '.' ||
           c == '-' || c == '_';
  });
}

// No honest answer nests deeper, and what nests deep costs time and memory.
bool too_deep(std::string_view text) {
  std::size_t depth = 0;
  bool in_string = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      i += c == '\\' ? 1 : 0;
      in_string = c != '"';
    } else if (c == '"') {
      in_string = true;
    } else if (c == '[' || c == '{') {
      if (++depth > k_max_depth) {
        return true;
      }
    } else if ((c == ']' || c == '}') && depth > 0) {
      --depth;
    }
  }
  return false;
}

Json parse_json(std::string_view text) {
  return too_deep(text) ? Json(Json::value_t::discarded)
                        : Json::parse(text, nullptr, /*allow_exceptions=*/false);
}

std::optional<std::string> text_at(const Json& object, const char* key) {
  const auto it = object.find(key);
  return it != object.end() && it->is_string() ? std::optional(it->get<std::string>()) : std::nullopt;
}

Result<std::optional<std::string>> digest_at(const Json& asset, const std::string& name) {
  const auto it = asset.find("digest");
  if (it == asset.end() || it->is_null() || (it->is_string() && it->get<std::string>().empty())) {
    return std::optional<std::string>();
  }
  if (!it->is_string()) {
    return unusable(base::format("the digest of {} is not a string", base::escape_control(name)));
  }
  auto text = it->get<std::string>();
  if (text.starts_with("sha256:")) {
    text.erase(0, 7);
  }
  const auto bytes = base::from_hex(text);
  if (!bytes || bytes->size() != 32) {
    return unusable(base::format("the digest of {} is not a sha256", base::escape_control(name)));
  }
  return std::optional(base::to_hex(*bytes));
}

Result<Release> read_release(const Json& json) {
  if (!json.is_object()) {
    return unusable("a release is not a JSON object");
  }
  Release out;
  const auto tag = text_at(json, "tag_name");
  const auto assets = json.find("assets");
  if (!tag || tag->empty() || tag->size() > 200) {
    return unusable("a release has no tag_name");
  }
  if (assets == json.end() || !assets->is_array() || assets->size() > k_max_assets) {
    return unusable("a release has no usable list of assets");
  }
  out.tag = *tag;
  for (const auto& item : *assets) {
    if (!item.is_object()) {
      return unusable("an asset is not a JSON object");
    }
    const auto name = text_at(item, "name");
    const auto url = text_at(item, "browser_download_url");
    if (!name || !url) {
      return unusable("an asset has no name or no browser_download_url");
    }
    // The name becomes part of paths. One that could lead elsewhere is not even looked at.
    if (!check_image_name(*name)) {
      continue;
    }
    ReleaseAsset asset{*name, *url, {}, {}};
    DS_TRY(asset.sha256, digest_at(item, *name));
    if (const auto size = item.find("size"); size != item.end() && size->is_number_unsigned()) {
      asset.size = size->get<std::uint64_t>();
    }
    out.assets.push_back(std::move(asset));
  }
  return out;
}

}  // namespace

Result<std::string> parse_release_version(std::string_view text) {
  std::string_view rest = text;
  if (rest.starts_with(k_guest_tag)) {
    rest.remove_prefix(k_guest_tag.size());
  } else if (rest.starts_with('v')) {
    rest.remove_prefix(1);
  }
  const auto first = rest.find('.');
  const auto second = first == std::string_view::npos ? first : rest.find('.', first + 1);
  bool good = harmless(rest) && second != std::string_view::npos;
  if (good) {
    const auto patch = rest.substr(second + 1);
    good = all_digits(rest.substr(0, first)) && all_digits(rest.substr(first + 1, second - first - 1)) &&
           all_digits(patch.substr(0, patch.find_first_of(".-"))) && !rest.contains("..");
  }
  if (!good) {
    return base::fail(Code::invalid_argument,
                      base::format("'{}' is not a release version", base::escape_control(text)),
                      "write it as MAJOR.MINOR.PATCH, for example 0.6.0");
  }
  return std::string(rest);
}

std::optional<ReleaseWish> as_release(std::string_view image_name) {
  ReleaseWish out;
  for (const std::string_view prefix : {"dstack-nvidia-", "dstack-", "v"}) {
    if (image_name.starts_with(prefix)) {
      out.gpu = prefix == "dstack-nvidia-";
      image_name.remove_prefix(prefix.size());
      break;
    }
  }
  if (!harmless(image_name) || image_name.front() < '0' || image_name.front() > '9') {
    return std::nullopt;
  }
  out.version = image_name;
  return out;
}

std::string release_path(const std::string& version) {
  const auto dot = version.find('.');
  const auto minor =
      dot == std::string::npos ? version : version.substr(dot + 1, version.find('.', dot + 1) - dot - 1);
  const bool before_0_6 = version.starts_with("0.") && minor.size() == 1 && minor < "6";
  return before_0_6 ? "/Dstack-TEE/meta-dstack/releases/tags/v" + version
                    : "/Dstack-TEE/dstack/releases/tags/guest-os-v" + version;
}

std::string version_of_tag(std::string_view tag) {
  if (tag.starts_with(k_guest_tag)) {
    tag.remove_prefix(k_guest_tag.size());
  } else if (tag.starts_with('v')) {
    tag.remove_prefix(1);
  }
  return std::string(tag);
}

Result<std::string> clean_release_api(std::string_view text) {
  auto cleaned = base::trim(text);
  while (cleaned.ends_with('/')) {
    cleaned.remove_suffix(1);
  }
  const auto url = net::Url::parse(cleaned);
  if (!url || !url->query.empty() || cleaned.contains('#')) {
    return base::fail(base::Error{
        Code::invalid_argument,
        base::format("--release-api-base-url '{}' is not usable", base::escape_control(cleaned)),
        url ? "it has a query or a fragment" : url.error().what(), "write it as https://HOST/repos"});
  }
  return std::string(cleaned);
}

Result<Release> parse_release(std::string_view json) {
  const auto document = parse_json(json);
  if (document.is_discarded()) {
    return unusable("it is not JSON");
  }
  return read_release(document);
}

Result<std::optional<Release>> first_guest_release(std::string_view json) {
  const auto document = parse_json(json);
  if (document.is_discarded()) {
    return unusable("it is not JSON");
  }
  if (!document.is_array()) {
    return unusable("the list of releases is not a JSON array");
  }
  for (const auto& item : document) {
    const auto tag = item.is_object() ? text_at(item, "tag_name") : std::nullopt;
    if (tag && tag->starts_with(k_guest_tag)) {
      DS_TRY(auto release, read_release(item));
      return std::optional(std::move(release));
    }
  }
  return std::optional<Release>();
}

Result<ReleaseAsset> choose_asset(const Release& release, bool gpu) {
  const auto find = [&](bool nvidia) -> const ReleaseAsset* {
    const auto it = std::ranges::find_if(release.assets, [&](const ReleaseAsset& asset) {
      const std::string_view name = asset.name;
      return name.size() > k_suffix.size() && name.ends_with(k_suffix) && !name.ends_with("-uki.tar.gz") &&
             !name.contains("-dev") && name.starts_with("dstack-") &&
             name.starts_with("dstack-nvidia-") == nvidia;
    });
    return it == release.assets.end() ? nullptr : &*it;
  };
  const ReleaseAsset* found = gpu ? find(true) : nullptr;
  if (found == nullptr) {
    found = find(false);
  }
  if (found != nullptr) {
    return *found;
  }
  std::string names;
  for (const auto& asset : release.assets) {
    if (names.size() < 300) {
      names += (names.empty() ? "" : ", ") + base::escape_control(asset.name);
    }
  }
  return base::fail(base::Error{
      Code::release, base::format("the release {} has no guest image", base::escape_control(release.tag)),
      names.empty() ? "it has no files" : "its files are " + names, "choose another one with --version"});
}

std::string asset_stem(const std::string& asset_name) {
  return asset_name.ends_with(k_suffix) ? asset_name.substr(0, asset_name.size() - k_suffix.size())
                                        : asset_name;
}

}  // namespace dstack::host
