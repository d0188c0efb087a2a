#include "host/image_pull.h"

#include <sys/stat.h>

#include "base/format.h"
#include "base/fs.h"
#include "base/log.h"
#include "host/download.h"
#include "host/image_sums.h"

namespace dstack::host {

using base::Code;
using base::Error;

namespace {

constexpr const char* k_replace = "replace it with --force, or remove it first";
constexpr std::size_t k_max_release_json = 16 * 1024 * 1024;

void tell(const std::function<void(std::string_view)>& to, const std::string& line) {
  if (to) {
    to(line);
  }
}

// The staging directory has a fixed name, so that what a killed pull left goes with the next one. The
// download's lock keeps others away.
class Staging {
 public:
  explicit Staging(fs::path path) : m_path(std::move(path)) {}
  ~Staging() {
    if (const auto removed = base::remove_tree(m_path); !removed) {
      base::log_warn(removed.error().what());
    }
  }
  Staging(const Staging&) = delete;
  Staging& operator=(const Staging&) = delete;

  Result<> make() {
    DS_CHECK(base::remove_tree(m_path));
    return base::make_dirs(m_path, 0700);
  }
  const fs::path& path() const { return m_path; }

 private:
  fs::path m_path;
};

Result<std::string> get_json(const PullImage& what, const std::string& path, const std::string& subject) {
  DS_TRY(const auto base_url, clean_release_api(what.api));
  DS_TRY(const auto url, net::Url::parse(base_url + path));
  net::Headers headers;
  headers.add("User-Agent", "dstackup");
  headers.add("Accept", "application/vnd.github+json");
  auto options = what.fetch;
  options.max_body = k_max_release_json;
  auto answer = net::fetch(url, headers, options);
  if (!answer) {
    return base::fail(std::move(answer).error(), "cannot look up " + subject);
  }
  if (answer->response.status / 100 != 2) {
    return base::fail(describe_refusal(*answer, subject));
  }
  return std::move(answer->response.body);
}

// The one directory in an unpacked archive that is an image.
Result<fs::path> find_unpacked(const fs::path& staging, const std::string& asset) {
  std::vector<fs::path> found;
  std::error_code error;
  for (fs::directory_iterator it(staging, error), end; !error && it != end; it.increment(error)) {
    const auto name = it->path().filename().string();
    if (!name.starts_with('.') && it->is_directory(error) &&
        fs::exists(it->path() / k_image_metadata, error)) {
      found.push_back(it->path());
    }
  }
  if (found.size() != 1) {
    return base::fail(
        Error{Code::image_invalid, base::format("{} is not a guest image", asset),
              found.empty() ? "no directory in it has a metadata.json" : "it holds several images",
              "choose another release with --version"});
  }
  DS_CHECK(check_image_name(found.front().filename().string()));
  return found.front();
}

Result<> check_unpacked(const PullImage& what, const Image& image) {
  DS_CHECK(check_replacement(what.use, what.images, image.name, image.os_image_hash,
                             "keep the one that is there, or pull into another directory with --image-path"));
  std::error_code error;
  const bool has_sums = fs::exists(image.directory / k_image_sums, error);
  if (!has_sums && image.os_image_hash.empty() && what.insecure) {
    tell(what.warn, image.name +
                        " has neither sha256sum.txt nor digest.txt: its files are not checked, and keys "
                        "cannot be bound to it");
    return {};
  }
  return verify_published_image(image);
}

}  // namespace

Result<Release> find_release(const PullImage& what) {
  if (what.version) {
    DS_TRY(const auto version, parse_release_version(*what.version));
    DS_TRY(const auto json, get_json(what, release_path(version), "the release " + version));
    DS_TRY(auto release, parse_release(json));
    if (version_of_tag(release.tag) != version) {
      return base::fail(Error{
          Code::release, base::format("the release server answers with another release than {}", version),
          base::format("its tag is '{}'", base::escape_control(release.tag)),
          "check --release-api-base-url"});
    }
    return release;
  }
  DS_TRY(const auto list, get_json(what, k_release_list_path, "the list of releases"));
  DS_TRY(auto first, first_guest_release(list));
  if (first) {
    return std::move(*first);
  }
  DS_TRY(const auto json, get_json(what, k_latest_release_path, "the latest release"));
  return parse_release(json);
}

Result<PulledImage> pull_image(const PullImage& what) {
  if (what.version) {
    DS_CHECK(parse_release_version(*what.version));
  }
  DS_TRY(const auto release, find_release(what));
  DS_TRY(const auto asset, choose_asset(release, what.gpu));
  const auto stem = asset_stem(asset.name);
  DS_CHECK(check_image_name(stem));
  std::error_code error;
  if (!what.force && fs::exists(what.images / stem / k_image_metadata, error)) {
    DS_TRY(auto image, load_image(what.images / stem));
    return PulledImage{std::move(image), release.tag, "", true, false};
  }
  if (!what.force && fs::exists(fs::symlink_status(what.images / stem, error))) {
    return base::fail(Error{Code::image_invalid, base::format("{} is not fetched", asset.name),
                            (what.images / stem).string() + " is there already, and is not an image",
                            k_replace});
  }
  if (!asset.sha256 && !what.insecure) {
    return base::fail(
        Code::release,
        base::format("the release {} names no sha256 for {}", base::escape_control(release.tag), asset.name),
        "choose a release that has one, or go without it with --insecure");
  }
  if (!asset.sha256) {
    tell(what.warn, "--insecure: nothing says what " + asset.name + " must be; whoever serves it decides");
  }
  DS_TRY(const auto api, net::Url::parse(what.api));
  auto url = net::Url::parse(asset.url);
  if (!url || (api.https && !url->https)) {
    return base::fail(Error{Code::release,
                            base::format("the release's address for {} is not usable", asset.name),
                            url ? "it is unencrypted, unlike the release server" : url.error().what(),
                            "check --release-api-base-url"});
  }
  tell(what.report, base::format("release {}: {}{}", base::escape_control(release.tag), asset.name,
                                 asset.size ? base::format(", {} MiB", (*asset.size + 1048575) >> 20) : ""));
  Download request;
  request.url = std::move(*url);
  request.name = asset.name;
  request.directory = what.images;
  request.sha256 = asset.sha256;
  request.size = asset.size;
  request.max_size = what.max_download;
  request.fetch = what.fetch;
  request.retries = what.retries;
  request.pause = what.pause;
  request.on_progress = what.on_progress;
  request.on_note = what.report;
  DS_TRY(const auto file, download(request));
  tell(what.report,
       base::format("sha256 {} {}", file.sha256, asset.sha256 ? "as the release says" : "(not checked)"));
  Staging staging(what.images / ("." + asset.name + ".staging"));
  DS_CHECK(staging.make());
  const auto unpacked = [&]() -> Result<fs::path> {
    DS_CHECK(unpack_archive(file.file, staging.path(), what.limits));
    DS_TRY(auto directory, find_unpacked(staging.path(), asset.name));
    DS_TRY(const auto image, load_image(directory));
    DS_CHECK(check_unpacked(what, image));
    return directory;
  }();
  // An archive with the right digest does not become better by another download; one without may be the fault
  // of its way here. Either way it is of no more use.
  DS_CHECK(discard_download(what.images, asset.name));
  if (!unpacked) {
    return base::fail(unpacked.error(), base::format("{} was not taken", asset.name));
  }
  ::chmod(unpacked->c_str(), 0755);
  const auto target = what.images / unpacked->filename();
  if (auto adopted = adopt_directory(*unpacked, target, what.force); !adopted) {
    auto problem = std::move(adopted).error();
    if (!what.force && problem.code == Code::image_invalid) {
      problem.fix = k_replace;
    }
    return base::fail(std::move(problem), base::format("{} was not taken", asset.name));
  }
  DS_TRY(auto image, load_image(target));
  if (!image.metadata.version.empty() && !version_of_tag(release.tag).starts_with(image.metadata.version)) {
    tell(what.warn,
         base::format("the image says that it is version {}, the release is {}",
                      base::escape_control(image.metadata.version), base::escape_control(release.tag)));
  }
  return PulledImage{std::move(image), release.tag, file.sha256, false, file.resumed};
}

}  // namespace dstack::host
