#include "host/image.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <nlohmann/json.hpp>

#include "base/bytes.h"
#include "base/format.h"
#include "base/fs.h"
#include "base/log.h"
#include "crypto/hash.h"
#include "host/file_digest.h"
#include "host/image_sums.h"

namespace dstack::host {

using base::Code;
using base::fail;
using base::format;
using Json = nlohmann::json;

namespace {

constexpr const char* k_rebuild = "build the image again with dstackup image build";

Result<std::optional<std::string>> optional_text(const Json& object, const char* key) {
  const auto it = object.find(key);
  if (it == object.end() || it->is_null()) {
    return std::nullopt;
  }
  if (!it->is_string()) {
    return fail(Code::parse, format("metadata.json: '{}' is not a string", key));
  }
  return it->get<std::string>();
}

Result<bool> optional_bool(const Json& object, const char* key) {
  const auto it = object.find(key);
  if (it == object.end() || it->is_null()) {
    return false;
  }
  if (!it->is_boolean()) {
    return fail(Code::parse, format("metadata.json: '{}' is not true or false", key));
  }
  return it->get<bool>();
}

bool is_inside(const fs::path& path, const fs::path& directory) {
  const auto [end, unused] = std::mismatch(directory.begin(), directory.end(), path.begin(), path.end());
  return end == directory.end();
}

Result<fs::path> resolve_artifact(const fs::path& directory, const std::string& name) {
  std::error_code error;
  const auto path = fs::canonical(directory / name, error);
  if (error) {
    return fail(Code::image_invalid,
                format("image {}: {} is missing", directory.filename().string(), base::escape_control(name)),
                k_rebuild);
  }
  if (!is_inside(path, directory) || !fs::is_regular_file(path, error)) {
    return fail(Code::image_invalid,
                format("image {}: {} is not a file inside the image directory", directory.filename().string(),
                       base::escape_control(name)),
                k_rebuild);
  }
  return path;
}

Result<std::optional<fs::path>> resolve_optional(const fs::path& directory,
                                                 const std::optional<std::string>& name) {
  if (!name) {
    return std::nullopt;
  }
  DS_TRY(auto path, resolve_artifact(directory, *name));
  return path;
}

std::string version_from_name(const std::string& name) {
  for (const std::string_view prefix : {"dstack-dev-", "dstack-"}) {
    if (name.starts_with(prefix)) {
      return name.substr(prefix.size());
    }
  }
  return {};
}

bool is_sha256_hex(std::string_view text) {
  const auto bytes = base::from_hex(text);
  return bytes && bytes->size() == 32;
}

}  // namespace

Result<ImageMetadata> parse_image_metadata(std::string_view json) {
  const auto object = Json::parse(json, nullptr, /*allow_exceptions=*/false);
  if (!object.is_object()) {
    return fail(Code::parse, "metadata.json is not a JSON object", k_rebuild);
  }
  ImageMetadata out;
  const auto text = [&](const char* key, std::string& target) -> Result<> {
    DS_TRY(auto value, optional_text(object, key));
    target = std::move(value).value_or("");
    return {};
  };
  DS_CHECK(text("cmdline", out.cmdline));
  DS_CHECK(text("kernel", out.kernel));
  DS_CHECK(text("initrd", out.initrd));
  DS_CHECK(text("rootfs_hash", out.rootfs_hash));
  DS_CHECK(text("version", out.version));
  DS_CHECK(text("git_revision", out.git_revision));
  DS_TRY(out.vmlinux, optional_text(object, "vmlinux"));
  DS_TRY(out.hda, optional_text(object, "hda"));
  DS_TRY(out.rootfs, optional_text(object, "rootfs"));
  DS_TRY(out.bios, optional_text(object, "bios"));
  DS_TRY(out.bios_sev, optional_text(object, "bios-sev"));
  DS_TRY(out.ovmf_variant, optional_text(object, "ovmf_variant"));
  DS_TRY(out.shared_ro, optional_bool(object, "shared_ro"));
  DS_TRY(out.is_dev, optional_bool(object, "is_dev"));
  if (out.kernel.empty() || out.initrd.empty()) {
    return fail(Code::parse, "metadata.json names no kernel or no initrd", k_rebuild);
  }
  return out;
}

Result<> check_image_name(std::string_view name) {
  const bool bad_character = std::ranges::any_of(name, [](unsigned char c) {
    return c == '/' || c == '\\' || c == ',' || c == '=' || c < 0x20 || c == 0x7f;
  });
  if (name.empty() || name.starts_with('.') || name.size() > 200 || bad_character) {
    return fail(Code::invalid_argument, format("'{}' is not an image name", base::escape_control(name)),
                "use letters, digits, dashes and dots, and do not start with a dot");
  }
  return {};
}

Result<Image> load_image(const fs::path& directory) {
  std::error_code error;
  Image image;
  image.directory = fs::canonical(directory, error);
  if (error) {
    return fail(Code::image_not_found, format("there is no image directory {}", directory.string()),
                "make one with dstackup image build");
  }
  image.name = image.directory.filename().string();
  auto text = base::read_file(image.directory / k_image_metadata);
  if (!text) {
    return fail(Code::image_invalid, format("image {} has no readable metadata.json", image.name), k_rebuild);
  }
  auto metadata = parse_image_metadata(*text);
  if (!metadata) {
    auto lower = std::move(metadata).error();
    lower.code = Code::image_invalid;
    return fail(std::move(lower), format("image {}", image.name));
  }
  image.metadata = std::move(*metadata);
  if (image.metadata.version.empty()) {
    image.metadata.version = version_from_name(image.name);
  }
  DS_TRY(image.kernel, resolve_artifact(image.directory, image.metadata.kernel));
  DS_TRY(image.vmlinux, resolve_optional(image.directory, image.metadata.vmlinux));
  DS_TRY(image.initrd, resolve_artifact(image.directory, image.metadata.initrd));
  DS_TRY(image.rootfs, resolve_optional(image.directory, image.metadata.rootfs));
  DS_TRY(image.bios, resolve_optional(image.directory, image.metadata.bios));
  DS_TRY(image.bios_sev, resolve_optional(image.directory, image.metadata.bios_sev));
  if (const auto digest = base::read_file(image.directory / k_image_digest, 4096)) {
    const auto hex = base::normalize_hex(*digest);
    if (!is_sha256_hex(hex)) {
      return fail(Code::image_invalid, format("image {}: digest.txt is not a sha256", image.name), k_rebuild);
    }
    image.os_image_hash = hex;
  } else if (digest.error().code != Code::not_found) {
    return fail(Code::image_invalid, format("image {}: digest.txt cannot be read", image.name), k_rebuild);
  }
  return image;
}

Result<Image> find_image(const fs::path& images, std::string_view name) {
  DS_CHECK(check_image_name(name));
  std::error_code error;
  if (fs::exists(images / name / k_image_metadata, error)) {
    return load_image(images / name);
  }
  std::string known;
  if (const auto list = list_images(images)) {
    for (const auto& image : *list) {
      known += (known.empty() ? "" : ", ") + image.name;
    }
  }
  return fail(Code::image_not_found, format("there is no image '{}' in {}", name, images.string()),
              known.empty() ? "make one with dstackup image build" : format("choose one of: {}", known));
}

Result<std::vector<Image>> list_images(const fs::path& images, std::vector<std::string>* broken) {
  std::error_code error;
  std::vector<std::pair<fs::file_time_type, Image>> found;
  fs::directory_iterator it(images, error);
  if (error == std::errc::no_such_file_or_directory) {
    return std::vector<Image>{};
  }
  if (error) {
    return fail(Code::io, format("cannot list {}: {}", images.string(), error.message()));
  }
  for (; it != fs::directory_iterator(); it.increment(error)) {
    const auto name = it->path().filename().string();
    if (name.starts_with('.') || !fs::exists(it->path() / k_image_metadata, error)) {
      continue;
    }
    auto image = load_image(it->path());
    if (image) {
      found.emplace_back(fs::last_write_time(it->path(), error), std::move(*image));
    } else if (broken) {
      broken->push_back(image.error().what());
    }
  }
  std::ranges::sort(found, [](const auto& a, const auto& b) {
    return std::tie(a.first, a.second.name) < std::tie(b.first, b.second.name);
  });
  std::vector<Image> out;
  for (auto& [time, image] : found) {
    out.push_back(std::move(image));
  }
  return out;
}

Result<> verify_image_digest(const Image& image) {
  const auto corrupt = [&](const std::string& why) {
    return fail(Code::image_corrupt, format("image {}: {}", image.name, why), k_rebuild);
  };
  if (image.os_image_hash.empty()) {
    return corrupt("there is no digest.txt");
  }
  DS_TRY(const auto sums, base::read_file(image.directory / k_image_sums));
  if (crypto::sha256_hex(sums) != image.os_image_hash) {
    return corrupt("digest.txt is not the sha256 of sha256sum.txt");
  }
  auto parsed = parse_sums(sums);
  if (!parsed) {
    return fail(std::move(parsed).error(), format("image {}", image.name));
  }
  std::vector<std::string> listed;
  for (const auto& [expected, name] : *parsed) {
    DS_TRY(const auto path, resolve_artifact(image.directory, name));
    DS_TRY(const auto sum, sha256_file(path));
    if (sum != expected) {
      return corrupt(format("{} was changed", name));
    }
    listed.push_back(name);
  }
  std::vector<std::string> needed{image.metadata.kernel, image.metadata.initrd, k_image_metadata};
  if (image.metadata.vmlinux) {
    needed.push_back(*image.metadata.vmlinux);
  }
  for (const auto& name : needed) {
    if (std::ranges::find(listed, name) == listed.end()) {
      return corrupt(format("sha256sum.txt does not list {}", name));
    }
  }
  return {};
}

Result<> remove_image(const fs::path& images, std::string_view name) {
  DS_CHECK(check_image_name(name));
  std::error_code error;
  if (!fs::exists(images / name, error)) {
    return fail(Code::image_not_found, format("there is no image '{}' in {}", name, images.string()),
                "list them with dstackup image list");
  }
  return base::remove_tree(images / name);
}

std::optional<ImageVersion> parse_image_version(std::string_view text) {
  std::array<unsigned, 3> parts{};
  for (auto& part : parts) {
    const auto end = std::min(text.find('.'), text.size());
    const auto [stop, error] = std::from_chars(text.data(), text.data() + end, part);
    if (error != std::errc() || stop != text.data() + end || part > 0xffff) {
      return std::nullopt;
    }
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return ImageVersion{parts[0], parts[1], parts[2]};
}

}  // namespace dstack::host
