// What this machine's apt says about Debian mirrors.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace dstack::host {

// One "deb" line, or one suite of one URI of a deb822 stanza.
struct AptSource {
  std::string uri;
  std::string suite;
  std::vector<std::string> components;
};

// Total: lines and stanzas that are not understood are skipped, as are disabled ones and deb-src.
std::vector<AptSource> parse_sources_list(std::string_view text);
std::vector<AptSource> parse_deb822_sources(std::string_view text);

struct DebianMirrors {
  std::string archive;   // base URL without a trailing slash
  std::string security;  // empty when there is none
};
// The first http(s) source of a Debian release (by code name or stable, testing …) with component main, and
// the first of its security suite. Code::not_found when apt knows none.
base::Result<DebianMirrors> choose_mirrors(const std::vector<AptSource>& sources);

// sources.list, sources.list.d/*.list and *.sources below `etc_apt`, in apt's order, to mirrors.
base::Result<DebianMirrors> mirrors_from_apt(const std::filesystem::path& etc_apt);

}  // namespace dstack::host
