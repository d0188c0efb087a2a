#include "fetch_image.h"

namespace dstack::dstackup {

base::Result<host::PulledImage> fetch_image(const FetchImage& what, cli::Progress& progress) {
  host::PullImage pull;
  pull.images = what.images;
  DS_TRY(pull.api, host::clean_release_api(what.api.value_or(host::k_release_api)));
  pull.version = what.version;
  pull.gpu = what.gpu;
  pull.force = what.force;
  pull.insecure = what.insecure;
  DS_TRY(const auto state, host::last_known_state(what.layout));
  pull.use = host::image_use(state, what.layout, pull.images);
  if (host::same_directory(pull.images, what.layout.images())) {
    DS_CHECK(host::ensure_state_directory(what.layout));
  }
  pull.report = [&](std::string_view line) { progress.step(line); };
  pull.warn = [&](std::string_view line) { progress.warn(line); };
  pull.on_progress = [&](std::uint64_t done, std::optional<std::uint64_t> total) {
    progress.bytes("downloading", done, total);
  };
  if (pull.api.starts_with("http://")) {
    progress.warn(
        "the release server is asked over unencrypted http: whoever is in between decides what the image is");
  }
  return host::pull_image(pull);
}

}  // namespace dstack::dstackup
