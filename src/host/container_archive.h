// Container image archives made without a registry: one layer and a config, as a docker archive.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"

namespace dstack::host {

namespace fs = std::filesystem;
using base::Result;

struct ContainerImage {
  std::string reference;  // "localhost/hello-nginx:latest"
  std::vector<std::string> entrypoint;
  std::vector<std::string> command;
  std::vector<std::string> environment;    // "KEY=value"
  std::vector<std::string> exposed_ports;  // "80/tcp"
  std::string working_directory;
  std::string user;
};

// Packs `rootfs` (a directory, or a tar that becomes the layer as it is) into a docker archive at `output`.
// The same tree and config give the same bytes: names sorted, times clamped, no build date.
Result<> write_container_archive(const fs::path& rootfs, const ContainerImage& image, const fs::path& output);
// A from-scratch image of a few files: (source on this host, absolute path in the image), mode 0755.
Result<> write_container_archive(const std::vector<std::pair<fs::path, std::string>>& files,
                                 const ContainerImage& image, const fs::path& output);

// One image in an archive.
struct ArchivedImage {
  std::string reference;  // as the archive says, "localhost/hello-nginx:latest"
  std::string source;     // what skopeo reads: "docker-archive:<path>:<reference>"
};
// The images of a docker archive (`RepoTags`) or an OCI archive (ref-name annotations), by name. An archive
// without a name in it is Code::container_archive. Plain, gzip, xz and zstd tars are read.
Result<std::vector<ArchivedImage>> read_archive_images(const fs::path& archive);

// Letters, digits and "._-/:@+" only, at most 255, no leading dash.
bool is_image_reference(std::string_view text);

}  // namespace dstack::host
