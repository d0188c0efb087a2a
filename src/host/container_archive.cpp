#include "host/container_archive.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>

#include "base/format.h"
#include "base/fs.h"
#include "base/log.h"
#include "base/process.h"
#include "crypto/hash.h"
#include "host/file_digest.h"
#include "host/work_directory.h"

namespace dstack::host {

using base::Code;
using base::fail;
using base::format;
using Json = nlohmann::ordered_json;

namespace {

constexpr std::size_t k_block = 512;
constexpr std::uint64_t k_max_entry = 077777777777;
// No file in a layer is newer than this (2024-01-01), so that the build's time does not show.
constexpr const char* k_newest = "@1704067200";

// A ustar file, written front to back; owner root, time 0.
class TarWriter {
 public:
  explicit TarWriter(const fs::path& path) : m_path(path), m_out(path, std::ios::binary | std::ios::trunc) {}

  void directory(const std::string& name) { header(name + "/", 0755, 0, '5'); }

  void text(const std::string& name, std::string_view data) {
    header(name, 0644, data.size(), '0');
    m_out.write(data.data(), static_cast<std::streamsize>(data.size()));
    pad(data.size());
  }

  void file(const std::string& name, const fs::path& source, unsigned mode) {
    std::error_code error;
    const auto size = fs::file_size(source, error);
    std::ifstream in(source, std::ios::binary);
    if (error || !in) {
      m_error = format("cannot read {}", source.string());
      return;
    }
    header(name, mode, size, '0');
    std::vector<char> buffer(1 << 20);
    std::uint64_t left = size;
    while (left > 0 && m_error.empty()) {
      in.read(buffer.data(), static_cast<std::streamsize>(std::min<std::uint64_t>(buffer.size(), left)));
      if (in.gcount() == 0) {
        m_error = format("{} became shorter while it was read", source.string());
        return;
      }
      m_out.write(buffer.data(), in.gcount());
      left -= static_cast<std::uint64_t>(in.gcount());
    }
    pad(size);
  }

  Result<> finish() {
    const std::array<char, 2 * k_block> end{};
    m_out.write(end.data(), end.size());
    m_out.close();
    if (m_error.empty() && !m_out) {
      return fail(Code::io, format("cannot write {}", m_path.string()), "check the free space");
    }
    if (!m_error.empty()) {
      return fail(Code::container_archive, m_error);
    }
    return {};
  }

 private:
  void header(const std::string& name, unsigned mode, std::uint64_t size, char type) {
    std::array<char, k_block> block{};
    if (name.size() > 100 || size > k_max_entry) {
      m_error = format("'{}' does not fit in a tar header", base::escape_control(name));
      return;
    }
    const auto put = [&](std::size_t offset, const std::string& value) {
      std::memcpy(block.data() + offset, value.data(), value.size());
    };
    put(0, name);
    put(100, format("{:07o}", mode));
    put(108, "0000000");
    put(116, "0000000");
    put(124, format("{:011o}", size));
    put(136, "00000000000");
    put(148, "        ");
    block[156] = type;
    put(257, "ustar");
    put(263, "00");
    unsigned sum = 0;
    for (const char c : block) {
      sum += static_cast<unsigned char>(c);
    }
    put(148, format("{:06o}", sum));
    block[154] = '\0';
    m_out.write(block.data(), block.size());
  }

  void pad(std::uint64_t size) {
    const std::array<char, k_block> zeros{};
    m_out.write(zeros.data(), static_cast<std::streamsize>((k_block - size % k_block) % k_block));
  }

  fs::path m_path;
  std::ofstream m_out;
  std::string m_error;
};

Result<> check_image(const ContainerImage& image) {
  if (!is_image_reference(image.reference)) {
    return fail(Code::invalid_argument,
                format("'{}' is not an image reference", base::escape_control(image.reference)),
                "use a name such as localhost/app:latest");
  }
  if (image.entrypoint.empty() && image.command.empty()) {
    return fail(Code::invalid_argument, "the image has neither an entrypoint nor a command",
                "give --entrypoint or --cmd");
  }
  return {};
}

std::string make_config(const ContainerImage& image, const std::string& layer_digest) {
  Json config = Json::object();
  if (!image.user.empty()) {
    config["User"] = image.user;
  }
  if (!image.exposed_ports.empty()) {
    config["ExposedPorts"] = Json::object();
    for (const auto& port : std::set<std::string>(image.exposed_ports.begin(), image.exposed_ports.end())) {
      config["ExposedPorts"][port] = Json::object();
    }
  }
  const bool has_path =
      std::ranges::any_of(image.environment, [](const auto& entry) { return entry.starts_with("PATH="); });
  auto environment = image.environment;
  if (!has_path) {
    environment.insert(environment.begin(), format("PATH={}", base::k_tool_path));
  }
  config["Env"] = environment;
  if (!image.entrypoint.empty()) {
    config["Entrypoint"] = image.entrypoint;
  }
  if (!image.command.empty()) {
    config["Cmd"] = image.command;
  }
  if (!image.working_directory.empty()) {
    config["WorkingDir"] = image.working_directory;
  }
  const Json document = {
      {"architecture", "amd64"},
      {"os", "linux"},
      {"created", "1970-01-01T00:00:00Z"},
      {"config", config},
      {"rootfs", {{"type", "layers"}, {"diff_ids", Json::array({"sha256:" + layer_digest})}}},
      {"history",
       Json::array({{{"created", "1970-01-01T00:00:00Z"}, {"created_by", "dstackup volume pack"}}})},
  };
  return document.dump();
}

Result<> write_archive(const fs::path& layer, const ContainerImage& image, const fs::path& output) {
  DS_TRY(const auto digest, sha256_file(layer));
  const auto config = make_config(image, digest);
  const auto config_name = crypto::sha256_hex(config) + ".json";
  const auto layer_name = digest + ".tar";
  const Json manifest =
      Json::array({{{"Config", config_name}, {"RepoTags", {image.reference}}, {"Layers", {layer_name}}}});
  auto temporary = output;
  temporary += ".partial";
  TarWriter tar(temporary);
  tar.text("manifest.json", manifest.dump());
  tar.text(config_name, config);
  tar.file(layer_name, layer, 0644);
  std::error_code error;
  if (auto done = tar.finish(); !done) {
    fs::remove(temporary, error);
    return done;
  }
  fs::rename(temporary, output, error);
  if (error) {
    return fail(Code::io, format("cannot write {}: {}", output.string(), error.message()));
  }
  return {};
}

fs::path parent_of(const fs::path& path) {
  return path.has_parent_path() ? path.parent_path() : fs::path(".");
}

Result<std::string> read_member(const fs::path& archive, const std::string& name) {
  for (const auto& spelling : {name, "./" + name}) {
    DS_TRY(auto output, base::run({.argv = {"tar", "--extract", "--to-stdout", "--occurrence=1", "--file",
                                            archive.string(), spelling},
                                   .timeout = std::chrono::minutes(5)}));
    if (output.exit_code == 0) {
      return std::move(output.out);
    }
  }
  return fail(Code::not_found, format("{} has no {}", archive.string(), name));
}

std::unexpected<base::Error> bad_archive(const fs::path& archive, const std::string& why) {
  return fail(Code::container_archive, format("{}: {}", archive.string(), why),
              "give an archive made by docker save, podman save, skopeo copy or dstackup volume pack");
}

Result<std::vector<ArchivedImage>> docker_images(const fs::path& archive, const std::string& manifest) {
  const auto list = Json::parse(manifest, nullptr, false);
  if (!list.is_array()) {
    return bad_archive(archive, "manifest.json is not a list");
  }
  std::vector<ArchivedImage> out;
  for (const auto& entry : list) {
    if (!entry.is_object() || !entry.contains("RepoTags") || !entry["RepoTags"].is_array()) {
      continue;
    }
    for (const auto& tag : entry["RepoTags"]) {
      if (!tag.is_string() || !is_image_reference(tag.get<std::string>())) {
        return bad_archive(archive, "an image name in it is malformed");
      }
      const auto reference = tag.get<std::string>();
      out.push_back({reference, format("docker-archive:{}:{}", archive.string(), reference)});
    }
  }
  return out;
}

Result<std::vector<ArchivedImage>> oci_images(const fs::path& archive, const std::string& index) {
  const auto document = Json::parse(index, nullptr, false);
  if (!document.is_object() || !document.contains("manifests") || !document["manifests"].is_array()) {
    return bad_archive(archive, "index.json has no list of manifests");
  }
  std::vector<ArchivedImage> out;
  for (const auto& entry : document["manifests"]) {
    const auto annotation = [&](const char* key) -> std::string {
      if (!entry.is_object() || !entry.contains("annotations") || !entry["annotations"].is_object()) {
        return {};
      }
      const auto it = entry["annotations"].find(key);
      return it != entry["annotations"].end() && it->is_string() ? it->get<std::string>() : std::string();
    };
    const auto selector = annotation("org.opencontainers.image.ref.name");
    const auto full = annotation("io.containerd.image.name");
    const auto& reference = full.empty() ? selector : full;
    if (reference.empty()) {
      continue;
    }
    if (!is_image_reference(reference) || (!selector.empty() && !is_image_reference(selector))) {
      return bad_archive(archive, "an image name in it is malformed");
    }
    out.push_back({reference, selector.empty() ? format("oci-archive:{}", archive.string())
                                               : format("oci-archive:{}:{}", archive.string(), selector)});
  }
  return out;
}

}  // namespace

bool is_image_reference(std::string_view text) {
  return !text.empty() && text.size() <= 255 && !text.starts_with('-') && !text.starts_with('/') &&
         std::ranges::all_of(text, [](char c) {
           return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                  std::string_view("._-/:@+").find(c) != std::string_view::npos;
         });
}

Result<> write_container_archive(const fs::path& rootfs, const ContainerImage& image,
                                 const fs::path& output) {
  DS_CHECK(check_image(image));
  std::error_code error;
  if (!fs::is_directory(rootfs, error)) {
    if (!fs::is_regular_file(rootfs, error)) {
      return fail(Code::not_found, format("{} is neither a directory nor a tar", rootfs.string()));
    }
    return write_archive(rootfs, image, output);
  }
  DS_TRY(const auto work, WorkDirectory::make(parent_of(output), "layer"));
  const auto layer = work.path() / "layer.tar";
  DS_CHECK(base::run_checked(
      {.argv = {"tar", "--create", "--file", layer.string(), "--directory", rootfs.string(), "--sort=name",
                "--mtime", k_newest, "--clamp-mtime", "--numeric-owner", "--format=posix",
                "--pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime", "--xattrs",
                "--xattrs-include=security.capability", "."},
       .timeout = std::chrono::minutes(10)}));
  return write_archive(layer, image, output);
}

Result<> write_container_archive(const std::vector<std::pair<fs::path, std::string>>& files,
                                 const ContainerImage& image, const fs::path& output) {
  DS_CHECK(check_image(image));
  std::set<std::string> directories;
  auto sorted = files;
  std::ranges::sort(sorted, {}, [](const auto& entry) { return entry.second; });
  for (const auto& [source, target] : sorted) {
    const fs::path path(target);
    if (!path.is_absolute() || path.lexically_normal() != path || !path.has_filename()) {
      return fail(Code::invalid_argument,
                  format("'{}' is not an absolute path of a file", base::escape_control(target)));
    }
    for (auto parent = path.parent_path(); parent != "/"; parent = parent.parent_path()) {
      directories.insert(parent.relative_path().string());
    }
  }
  DS_TRY(const auto work, WorkDirectory::make(parent_of(output), "layer"));
  const auto layer = work.path() / "layer.tar";
  TarWriter tar(layer);
  for (const auto& directory : directories) {
    tar.directory(directory);
  }
  for (const auto& [source, target] : sorted) {
    tar.file(fs::path(target).relative_path().string(), source, 0755);
  }
  DS_CHECK(tar.finish());
  return write_archive(layer, image, output);
}

Result<std::vector<ArchivedImage>> read_archive_images(const fs::path& archive) {
  std::error_code error;
  if (!fs::is_regular_file(archive, error)) {
    return fail(Code::not_found, format("there is no archive {}", archive.string()));
  }
  // skopeo splits its argument at colons.
  if (archive.string().find(':') != std::string::npos) {
    return fail(Code::invalid_argument,
                format("{}: the path of an archive may not contain a colon", archive.string()),
                "rename the file");
  }
  Result<std::vector<ArchivedImage>> images = std::vector<ArchivedImage>{};
  if (const auto manifest = read_member(archive, "manifest.json")) {
    images = docker_images(archive, *manifest);
  } else if (const auto index = read_member(archive, "index.json")) {
    images = oci_images(archive, *index);
  } else {
    return bad_archive(archive, "it is neither a docker archive nor an OCI archive");
  }
  if (images && images->empty()) {
    return bad_archive(archive, "the images in it have no name");
  }
  return images;
}

}  // namespace dstack::host
