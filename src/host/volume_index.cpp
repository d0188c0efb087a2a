#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>

#include "base/format.h"
#include "base/fs.h"
#include "base/log.h"
#include "host/container_archive.h"
#include "host/file_digest.h"
#include "host/image_store.h"
#include "host/volume.h"
#include "host/work_directory.h"

namespace dstack::host {

using base::Code;
using base::fail;
using base::format;
using Json = nlohmann::ordered_json;

namespace {

constexpr const char* k_index = "index.json";

std::unexpected<base::Error> bad_index(const fs::path& path) {
  return fail(Code::parse, format("{} is malformed", path.string()),
              "move it away and add the volumes again with dstackup volume add");
}

bool is_volume_name(std::string_view name) {
  return !name.empty() && name.size() <= 100 && !name.starts_with('.') && !name.starts_with('-') &&
         std::ranges::all_of(name, [](char c) {
           return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' ||
                  c == '_' || c == '-';
         });
}

Result<> check_volume_name(std::string_view name) {
  if (!is_volume_name(name)) {
    return fail(Code::invalid_argument, format("'{}' is not a volume name", base::escape_control(name)),
                "use letters, digits, '.', '_' and '-', and start with a letter or digit");
  }
  return {};
}

// The last part of the repository name.
std::string name_of_reference(const std::string& reference) {
  auto name = reference.substr(0, reference.find('@'));
  name = name.substr(name.rfind('/') + 1);
  return name.substr(0, name.find(':'));
}

std::optional<std::string> text_of(const Json& object, const char* key) {
  const auto it = object.find(key);
  return it != object.end() && it->is_string() ? std::optional(it->get<std::string>()) : std::nullopt;
}

std::optional<VolumeEntry> parse_entry(const Json& json) {
  if (!json.is_object()) {
    return std::nullopt;
  }
  const auto name = text_of(json, "name");
  const auto file = text_of(json, "file");
  const auto root = text_of(json, "verity_root");
  const auto images = json.find("images");
  if (!name || !is_volume_name(*name) || !file || !is_volume_name(*file) || !root ||
      base::from_hex(*root).value_or(base::Bytes{}).size() != 32 || images == json.end() ||
      !images->is_array()) {
    return std::nullopt;
  }
  VolumeEntry entry{
      *name, *file, base::normalize_hex(*root), {}, text_of(json, "archive_sha256").value_or("")};
  for (const auto& image : *images) {
    if (!image.is_string() || !is_image_reference(image.get<std::string>())) {
      return std::nullopt;
    }
    entry.images.push_back(image.get<std::string>());
  }
  return entry;
}

}  // namespace

std::string normalize_image_reference(std::string_view reference) {
  std::string text(reference);
  const auto slash = text.find('/');
  const auto first = text.substr(0, slash);
  if (slash == std::string::npos) {
    text = "docker.io/library/" + text;
  } else if (first != "localhost" && first.find_first_of(".:") == std::string::npos) {
    text = "docker.io/" + text;
  }
  const auto name_start = text.rfind('/');
  if (text.find('@') == std::string::npos && text.find(':', name_start) == std::string::npos) {
    text += ":latest";
  }
  return text;
}

fs::path volumes_directory(const fs::path& state_directory) {
  return state_directory / "volumes";
}

Result<VolumeIndex> VolumeIndex::load(const fs::path& state_directory) {
  VolumeIndex index;
  index.m_directory = volumes_directory(state_directory);
  const auto path = index.m_directory / k_index;
  const auto text = base::read_file(path);
  if (!text) {
    if (text.error().code == Code::not_found) {
      return index;
    }
    return fail(text.error());
  }
  const auto document = Json::parse(*text, nullptr, false);
  if (!document.is_object() || !document.contains("volumes") || !document["volumes"].is_array()) {
    return bad_index(path);
  }
  for (const auto& json : document["volumes"]) {
    auto entry = parse_entry(json);
    if (!entry) {
      return bad_index(path);
    }
    index.m_entries.push_back(std::move(*entry));
  }
  return index;
}

Result<> VolumeIndex::save() const {
  Json volumes = Json::array();
  for (const auto& entry : m_entries) {
    volumes.push_back({{"name", entry.name},
                       {"file", entry.file},
                       {"verity_root", entry.verity_root},
                       {"images", entry.images},
                       {"archive_sha256", entry.archive_sha256}});
  }
  return base::write_file_atomic(m_directory / k_index, Json{{"volumes", volumes}}.dump(2) + "\n");
}

const VolumeEntry* VolumeIndex::find(std::string_view name) const {
  const auto it = std::ranges::find(m_entries, name, &VolumeEntry::name);
  return it == m_entries.end() ? nullptr : &*it;
}

const VolumeEntry* VolumeIndex::find_by_image(std::string_view reference) const {
  const auto wanted = normalize_image_reference(reference);
  for (auto it = m_entries.rbegin(); it != m_entries.rend(); ++it) {
    if (std::ranges::find(it->images, wanted) != it->images.end()) {
      return &*it;
    }
  }
  return nullptr;
}

Result<VolumeEntry> add_image_volume(const fs::path& state_directory, const AddVolume& what) {
  const auto report = [&](const std::string& line) {
    if (what.report) {
      what.report(line);
    }
  };
  std::error_code error;
  const auto archive = fs::canonical(what.archive, error);
  if (error) {
    return fail(Code::not_found, format("there is no archive {}", what.archive.string()));
  }
  DS_TRY(const auto images, read_archive_images(archive));
  VolumeEntry entry;
  entry.name = what.name.empty() ? name_of_reference(images.front().reference) : what.name;
  DS_CHECK(check_volume_name(entry.name));
  entry.file = entry.name + ".img";
  std::set<std::string> references;
  for (const auto& image : images) {
    references.insert(normalize_image_reference(image.reference));
  }
  entry.images.assign(references.begin(), references.end());
  DS_TRY(entry.archive_sha256, sha256_file(archive));

  const auto directory = volumes_directory(state_directory);
  DS_CHECK(base::make_dirs(directory));
  DS_TRY(const auto lock, base::FileLock::acquire(directory / ".lock"));
  DS_TRY(auto index, VolumeIndex::load(state_directory));
  const auto* existing = index.find(entry.name);
  if (existing != nullptr) {
    const auto root = read_volume_root(index.path_of(*existing));
    if (root && *root == existing->verity_root && existing->archive_sha256 == entry.archive_sha256 &&
        existing->images == entry.images) {
      report(format("volume {} is already there", entry.name));
      return *existing;
    }
    if (!what.replace && root) {
      return fail(Code::volume_exists, format("the volume {} exists with other content", entry.name),
                  "give --replace, or another name with --name");
    }
  }
  DS_TRY(const auto work, WorkDirectory::make(directory, "add"));
  DS_TRY(const auto store, make_image_store(work.path(), images));
  report(format("unpacked {} image{}", images.size(), images.size() == 1 ? "" : "s"));
  DS_TRY(const auto built, build_volume(store, directory / entry.file, what.compression));
  entry.verity_root = built.verity_root;
  report(format("wrote {} ({} MiB)", built.output.string(), built.volume_size >> 20));
  std::erase_if(index.m_entries, [&](const auto& other) { return other.name == entry.name; });
  index.m_entries.push_back(entry);
  DS_CHECK(index.save());
  return entry;
}

Result<> remove_volume(const fs::path& state_directory, std::string_view name) {
  DS_CHECK(check_volume_name(name));
  const auto directory = volumes_directory(state_directory);
  const auto missing = [&] {
    return fail(Code::not_found, format("there is no volume '{}'", name),
                "list them with dstackup volume list");
  };
  std::error_code error;
  if (!fs::exists(directory, error)) {
    return missing();
  }
  DS_TRY(const auto lock, base::FileLock::acquire(directory / ".lock"));
  DS_TRY(auto index, VolumeIndex::load(state_directory));
  const auto* entry = index.find(name);
  if (entry == nullptr) {
    return missing();
  }
  const auto file = index.path_of(*entry);
  std::erase_if(index.m_entries, [&](const auto& other) { return other.name == name; });
  DS_CHECK(index.save());
  return base::remove_file(file);
}

}  // namespace dstack::host
