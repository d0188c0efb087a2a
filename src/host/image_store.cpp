#include "host/image_store.h"

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>

#include "base/format.h"
#include "base/fs.h"
#include "base/process.h"
#include "crypto/hash.h"
#include "host/volume.h"

namespace dstack::host {

using base::Code;
using base::fail;
using base::format;
using base::Result;
using Json = nlohmann::ordered_json;

namespace {

constexpr const char* k_time = "2024-01-01T00:00:00Z";

// The short name by which overlay mounts refer to a layer: 26 letters and digits, random when skopeo makes
// it.
std::string link_name(const std::string& layer) {
  static constexpr std::string_view k_base32 = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
  const auto hash = crypto::sha256(base::as_bytes("dstack-layer-link:" + layer));
  std::string out;
  for (std::size_t i = 0; i < 26; ++i) {
    out += k_base32[hash[i] % k_base32.size()];
  }
  return out;
}

Result<> write_text(const fs::path& path, std::string_view text) {
  return base::write_file_atomic(path, text, {.mode = 0644});
}

// Rewrites the list in `file`, sorted by id and with a fixed time.
Result<> fix_records(const fs::path& file) {
  DS_TRY(const auto text, base::read_file(file));
  auto records = Json::parse(text, nullptr, false);
  if (!records.is_array()) {
    return fail(Code::internal,
                format("skopeo wrote a store that is not understood: {}", file.filename().string()));
  }
  for (auto& record : records) {
    if (record.is_object() && record.contains("created")) {
      record["created"] = k_time;
    }
  }
  std::sort(records.begin(), records.end(),
            [](const Json& a, const Json& b) { return a.value("id", "") < b.value("id", ""); });
  return write_text(file, records.dump());
}

Result<> fix_links(const fs::path& overlay) {
  std::error_code error;
  fs::remove_all(overlay / "l", error);
  fs::create_directory(overlay / "l", error);
  std::vector<std::string> layers;
  for (fs::directory_iterator it(overlay, error); !error && it != fs::directory_iterator();
       it.increment(error)) {
    if (fs::exists(it->path() / "link", error)) {
      layers.push_back(it->path().filename().string());
    }
  }
  std::vector<std::pair<std::string, std::string>> renamed;
  for (const auto& layer : layers) {
    DS_TRY(const auto old_name, base::read_file(overlay / layer / "link"));
    renamed.emplace_back(old_name, link_name(layer));
  }
  for (const auto& layer : layers) {
    fs::create_directory_symlink(fs::path("..") / layer / "diff", overlay / "l" / link_name(layer), error);
    if (error) {
      return fail(Code::io, format("cannot write the image store: {}", error.message()));
    }
    DS_CHECK(write_text(overlay / layer / "link", link_name(layer)));
    const auto lower_file = overlay / layer / "lower";
    if (!fs::exists(lower_file, error)) {
      continue;
    }
    DS_TRY(auto lower, base::read_file(lower_file));
    for (const auto& [from, to] : renamed) {
      if (const auto at = lower.find("l/" + from); at != std::string::npos) {
        lower.replace(at + 2, from.size(), to);
      }
    }
    DS_CHECK(write_text(lower_file, lower));
  }
  return {};
}

Result<> make_reproducible(const fs::path& store) {
  std::error_code error;
  for (const char* unneeded : {"tmp", "mounts", "storage.lock", "userns.lock", "overlay-containers",
                               "overlay/.has-mount-program", "libpod", "defaultNetworkBackend"}) {
    fs::remove_all(store / unneeded, error);
  }
  // Readers open the lock files, so they must be there; what is in them says who wrote last.
  DS_CHECK(write_text(store / "overlay-images/images.lock", ""));
  DS_CHECK(write_text(store / "overlay-layers/layers.lock", ""));
  DS_CHECK(fix_records(store / "overlay-images/images.json"));
  DS_CHECK(fix_records(store / "overlay-layers/layers.json"));
  DS_CHECK(fix_links(store / "overlay"));
  fs::permissions(store, static_cast<fs::perms>(0755), error);
  return {};
}

}  // namespace

Result<fs::path> make_image_store(const fs::path& work, const std::vector<ArchivedImage>& images) {
  const auto store = work / "store";
  const auto run = work / "run";
  for (const auto& image : images) {
    // Without skip_mount_home a bind mount of the store stays behind on this host.
    const auto target = format("containers-storage:[overlay@{}+{}:overlay.skip_mount_home=true]{}",
                               store.string(), run.string(), normalize_image_reference(image.reference));
    DS_CHECK(
        base::run_checked({.argv = {"skopeo", "--insecure-policy", "copy", "--quiet", image.source, target},
                           .timeout = std::chrono::minutes(15)}));
  }
  DS_CHECK(make_reproducible(store));
  return store;
}

}  // namespace dstack::host
