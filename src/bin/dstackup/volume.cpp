#include <memory>
#include <nlohmann/json.hpp>
#include <ostream>

#include "base/format.h"
#include "base/fs.h"
#include "cli/progress.h"
#include "cli/table.h"
#include "host/container_archive.h"
#include "host/layout.h"
#include "host/package_tree.h"
#include "host/volume.h"
#include "host/work_directory.h"
#include "verb_action.h"
#include "verbs.h"

namespace dstack::dstackup {

namespace fs = std::filesystem;

namespace {

using base::Code;
using base::fail;
using base::format;
using Json = nlohmann::ordered_json;

struct Options {
  std::optional<std::string> prefix;
  std::string archive;
  std::string name;
  std::string compression = "lz4";
  std::string rootfs;
  std::string mirror;
  std::string output;
  std::vector<std::string> packages;
  std::vector<std::string> files;
  host::ContainerImage image;
  bool replace = false;
  bool no_cache = false;
  bool json = false;
};

Json to_json(const host::VolumeEntry& entry) {
  return {{"name", entry.name},
          {"file", entry.file},
          {"verityRoot", entry.verity_root},
          {"images", entry.images}};
}

base::Result<int> add(const Options& options, const cli::Streams& streams) {
  DS_TRY(const auto layout, host::Layout::make(options.prefix));
  const auto compression = host::parse_volume_compression(options.compression);
  if (!compression) {
    return fail(Code::invalid_argument, format("'{}' is not a compression", options.compression),
                "choose none, lz4, gzip or zstd");
  }
  DS_CHECK(host::ensure_state_directory(layout));
  cli::Progress progress(streams, options.json);
  DS_TRY(
      const auto entry,
      host::add_image_volume(layout.state, {.archive = options.archive,
                                            .name = options.name,
                                            .compression = *compression,
                                            .replace = options.replace,
                                            .report = [&](std::string_view line) { progress.step(line); }}));
  if (options.json) {
    streams.out << to_json(entry).dump() << '\n';
  } else {
    for (const auto& image : entry.images) {
      streams.out << entry.name << ' ' << image << ' ' << entry.verity_root << '\n';
    }
  }
  return cli::k_exit_ok;
}

base::Result<int> list(const Options& options, const cli::Streams& streams) {
  DS_TRY(const auto layout, host::Layout::make(options.prefix));
  DS_TRY(const auto index, host::VolumeIndex::load(layout.state));
  if (options.json) {
    Json out = Json::array();
    for (const auto& entry : index.entries()) {
      out.push_back(to_json(entry));
    }
    streams.out << out.dump() << '\n';
    return cli::k_exit_ok;
  }
  if (index.entries().empty()) {
    streams.err << "no volumes; make one from an image archive with dstackup volume add\n";
    return cli::k_exit_ok;
  }
  cli::Table table({{"NAME"}, {"IMAGE"}, {"VERITY ROOT"}});
  for (const auto& entry : index.entries()) {
    for (const auto& image : entry.images) {
      table.add({entry.name, image, entry.verity_root});
    }
  }
  streams.out << table.text();
  return cli::k_exit_ok;
}

base::Result<int> remove(const Options& options, const cli::Streams& streams) {
  DS_TRY(const auto layout, host::Layout::make(options.prefix));
  DS_CHECK(host::remove_volume(layout.state, options.name));
  streams.err << "removed " << options.name << '\n';
  return cli::k_exit_ok;
}

base::Result<std::vector<std::pair<fs::path, std::string>>> parse_files(
    const std::vector<std::string>& specs) {
  std::vector<std::pair<fs::path, std::string>> out;
  for (const auto& spec : specs) {
    const auto colon = spec.rfind(':');
    const auto target = colon == std::string::npos ? std::string() : spec.substr(colon + 1);
    const fs::path path(target);
    std::error_code error;
    if (!path.is_absolute() || path.lexically_normal() != path || !path.has_filename() ||
        !fs::is_regular_file(spec.substr(0, colon), error)) {
      return fail(Code::invalid_argument, format("'{}' is not FILE:/PATH/IN/IMAGE", spec),
                  "name an existing file and an absolute path");
    }
    out.emplace_back(spec.substr(0, colon), target);
  }
  return out;
}

// A tree of packages with some files added, packed as one layer.
base::Result<> pack_packages(const Options& options,
                             const std::vector<std::pair<fs::path, std::string>>& files) {
  DS_TRY(const auto layout, host::Layout::make(options.prefix));
  DS_TRY(const auto tree,
         host::make_package_tree({options.packages, layout.cache, options.mirror, !options.no_cache}));
  DS_TRY(const auto work, host::WorkDirectory::make(layout.cache / "trees", "pack"));
  const auto root = work.path() / "root";
  DS_CHECK(host::unpack_tree(tree, root));
  DS_CHECK(host::remove_traces(root));
  for (const auto& [source, target] : files) {
    DS_TRY(const auto bytes, base::read_file(source, 1024UL * 1024 * 1024));
    const auto path = root / fs::path(target).relative_path();
    DS_CHECK(base::make_dirs(path.parent_path()));
    DS_CHECK(base::remove_file(path));
    std::error_code error;
    const auto executable =
        (fs::status(source, error).permissions() & fs::perms::owner_exec) != fs::perms::none;
    DS_CHECK(base::write_file_atomic(path, bytes, {.mode = executable ? 0755U : 0644U, .force_mode = true}));
  }
  return host::write_container_archive(root, options.image, options.output);
}

base::Result<int> pack(const Options& options, const cli::Streams& streams) {
  DS_TRY(const auto files, parse_files(options.files));
  if (!options.rootfs.empty()) {
    if (!files.empty()) {
      return fail(Code::invalid_argument, "--file does not go with --rootfs",
                  "put the file into the root file system");
    }
    DS_CHECK(host::write_container_archive(fs::path(options.rootfs), options.image, options.output));
  } else if (!options.packages.empty()) {
    DS_CHECK(pack_packages(options, files));
  } else if (!files.empty()) {
    DS_CHECK(host::write_container_archive(files, options.image, options.output));
  } else {
    return fail(Code::invalid_argument, "there is nothing to pack", "give --rootfs, --package or --file");
  }
  streams.out << options.output << '\n';
  return cli::k_exit_ok;
}

}  // namespace

void add_volume(cli::Command& program, const cli::Streams& streams) {
  auto& volume = program.verb("volume", "read-only volumes that hold container images");
  volume.examples("dstackup volume add hello-nginx.tar\ndstackup volume list");
  {
    auto options = std::make_shared<Options>();
    auto& verb = volume.verb("add", "make a volume from a docker or OCI image archive");
    verb.option("ARCHIVE", options->archive, "the archive");
    verb.require("ARCHIVE");
    verb.values("ARCHIVE", cli::Values::file());
    verb.option("--name", options->name, "name of the volume", "from the image");
    verb.option("--compression", options->compression, "none, lz4, gzip or zstd", "lz4");
    verb.values("--compression", cli::Values::choice({"none", "lz4", "gzip", "zstd"}));
    verb.flag("--replace", options->replace, "replace a volume of this name with other content");
    verb.flag("-j,--json", options->json, "print the result as JSON");
    verb.examples("dstackup volume add hello-nginx.tar");
    set_action(verb, options, streams, add);
  }
  {
    auto options = std::make_shared<Options>();
    auto& verb = volume.verb("list", "list the volumes", {"ls"});
    verb.flag("-j,--json", options->json, "print the list as JSON");
    verb.examples("dstackup volume list\ndstackup volume list --json");
    set_action(verb, options, streams, list);
  }
  {
    auto options = std::make_shared<Options>();
    auto& verb = volume.verb("rm", "remove a volume");
    verb.option("NAME", options->name, "the volume");
    verb.require("NAME");
    verb.values("NAME", cli::Values::dynamic("volumes"));
    verb.examples("dstackup volume rm hello-nginx");
    set_action(verb, options, streams, remove);
  }
  {
    auto options = std::make_shared<Options>();
    auto& verb = volume.verb("pack", "make an image archive without a registry");
    verb.option("--name", options->image.reference, "image reference, localhost/app:latest");
    verb.option("--output", options->output, "the archive to write");
    verb.require("--name");
    verb.require("--output");
    verb.values("--output", cli::Values::file());
    verb.option("--rootfs", options->rootfs, "directory or tar that is the image's root");
    verb.values("--rootfs", cli::Values::file());
    verb.option("--package", options->packages, "Debian package to make the root of");
    verb.option("--file", options->files, "FILE:/PATH/IN/IMAGE to add; alone it makes an image from scratch");
    verb.option("--entrypoint", options->image.entrypoint, "one word of the entrypoint");
    verb.option("--cmd", options->image.command, "one word of the command");
    verb.option("--env", options->image.environment, "KEY=value");
    verb.option("--expose", options->image.exposed_ports, "port such as 80/tcp");
    verb.option("--workdir", options->image.working_directory, "working directory");
    verb.option("--mirror", options->mirror, "Debian mirror for --package",
                "from this machine's apt configuration");
    verb.flag("--no-cache", options->no_cache, "fetch the packages again");
    verb.examples(
        "dstackup volume pack --name localhost/kms:latest --file dstack-kms:/dstack-kms"
        " --entrypoint /dstack-kms --output kms.tar");
    set_action(verb, options, streams, pack);
  }
}

}  // namespace dstack::dstackup
