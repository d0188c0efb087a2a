// Container image archives made without a registry: one layer and a config, as a docker archive.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
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

// The references inside a docker or OCI archive (`RepoTags`, or the OCI ref-name annotations).
struct ArchiveContents {
  bool oci = false;
  std::vector<std::string> references;
};
Result<ArchiveContents> read_archive_contents(const fs::path& archive);

}  // namespace dstack::host
