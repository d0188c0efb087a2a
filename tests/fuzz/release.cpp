// What a release server and its redirects say: releases, versions, ranges, URLs.
#include "host/release.h"
#include "fuzz.h"
#include "host/download.h"
#include "host/image.h"
#include "net/url.h"

using namespace dstack;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto text = fuzz::text(data, size);
  const auto check = [](const host::Release& release) {
    FUZZ_EXPECT(!release.tag.empty());
    for (const auto& asset : release.assets) {
      FUZZ_EXPECT(host::check_image_name(asset.name));
      FUZZ_EXPECT(!asset.sha256 || asset.sha256->size() == 64);
    }
    for (const bool gpu : {false, true}) {
      if (const auto asset = host::choose_asset(release, gpu)) {
        FUZZ_EXPECT(host::check_image_name(host::asset_stem(asset->name)));
      }
    }
  };
  if (const auto release = host::parse_release(text)) {
    check(*release);
  }
  if (const auto release = host::first_guest_release(text); release && *release) {
    check(**release);
  }
  if (const auto version = host::parse_release_version(text)) {
    FUZZ_EXPECT(host::release_path(*version).find("..") == std::string::npos);
    FUZZ_EXPECT(version->find('/') == std::string::npos);
  }
  if (const auto range = host::parse_content_range(text)) {
    FUZZ_EXPECT(range->first <= range->last && (!range->total || range->last < *range->total));
  }
  (void)host::clean_release_api(text);
  if (const auto url = net::Url::parse(text)) {
    FUZZ_EXPECT(url->path.starts_with('/') && url->port != 0 && !url->host.empty());
    const auto again = net::Url::parse(url->to_string());
    FUZZ_EXPECT(again && again->host == url->host && again->port == url->port && again->https == url->https);
  }
  const auto base = net::Url::parse("https://host.example/a/b?c");
  if (const auto url = base->resolve(text)) {
    FUZZ_EXPECT(url->path.starts_with('/'));
  }
  return 0;
}
