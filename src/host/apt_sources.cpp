#include "host/apt_sources.h"

#include <algorithm>
#include <array>
#include <map>
#include <sstream>

#include "base/bytes.h"
#include "base/format.h"
#include "base/fs.h"

namespace dstack::host {

namespace fs = std::filesystem;
using base::Code;
using base::fail;
using base::Result;

namespace {

constexpr std::array<std::string_view, 10> k_releases{
    "stable", "testing", "unstable", "oldstable", "sid", "bullseye", "bookworm", "trixie", "forky", "duke"};

std::vector<std::string> words_of(const std::string& text) {
  std::istringstream in(text);
  std::vector<std::string> out;
  for (std::string word; in >> word;) {
    out.push_back(word);
  }
  return out;
}

std::string lower(std::string_view text) {
  std::string out(text);
  std::ranges::transform(out, out.begin(),
                         [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; });
  return out;
}

using Stanza = std::map<std::string, std::string>;

void add_stanza(const Stanza& stanza, std::vector<AptSource>& out) {
  const auto field = [&](const char* name) {
    const auto it = stanza.find(name);
    return it == stanza.end() ? std::string() : it->second;
  };
  const auto types = words_of(field("types"));
  const auto enabled = lower(base::trim(field("enabled")));
  if (std::ranges::find(types, "deb") == types.end() || enabled == "no" || enabled == "false") {
    return;
  }
  const auto components = words_of(field("components"));
  for (const auto& uri : words_of(field("uris"))) {
    for (const auto& suite : words_of(field("suites"))) {
      out.push_back({uri, suite, components});
    }
  }
}

bool is_release(std::string_view suite) {
  return std::ranges::find(k_releases, suite) != k_releases.end();
}

bool has_main(const AptSource& source) {
  return std::ranges::find(source.components, "main") != source.components.end();
}

std::string base_url(std::string uri) {
  while (uri.ends_with('/')) {
    uri.pop_back();
  }
  return uri;
}

}  // namespace

std::vector<AptSource> parse_sources_list(std::string_view text) {
  std::vector<AptSource> out;
  std::istringstream in{std::string(text)};
  for (std::string line; std::getline(in, line);) {
    line = line.substr(0, line.find('#'));
    auto words = words_of(line);
    if (words.empty() || words[0] != "deb") {
      continue;
    }
    words.erase(words.begin());
    if (!words.empty() && words[0].starts_with('[')) {
      const auto end = std::ranges::find_if(words, [](const auto& word) { return word.ends_with(']'); });
      words.erase(words.begin(), end == words.end() ? end : end + 1);
    }
    if (words.size() >= 3) {
      out.push_back({words[0], words[1], {words.begin() + 2, words.end()}});
    }
  }
  return out;
}

std::vector<AptSource> parse_deb822_sources(std::string_view text) {
  std::vector<AptSource> out;
  Stanza stanza;
  std::string key;
  std::istringstream in{std::string(text)};
  for (std::string line; std::getline(in, line);) {
    if (line.starts_with('#')) {
      continue;
    }
    if (base::trim(line).empty()) {
      add_stanza(stanza, out);
      stanza.clear();
      key.clear();
    } else if (line[0] == ' ' || line[0] == '\t') {
      if (!key.empty()) {
        stanza[key] += " " + line;
      }
    } else if (const auto colon = line.find(':'); colon != std::string::npos) {
      key = lower(base::trim(line.substr(0, colon)));
      stanza[key] = line.substr(colon + 1);
    }
  }
  add_stanza(stanza, out);
  return out;
}

Result<DebianMirrors> choose_mirrors(const std::vector<AptSource>& sources) {
  DebianMirrors out;
  for (const auto& source : sources) {
    if (!has_main(source) || !(source.uri.starts_with("http://") || source.uri.starts_with("https://"))) {
      continue;
    }
    const auto release = source.suite.substr(0, source.suite.find_first_of("-/"));
    if (!is_release(release)) {
      continue;
    }
    if (out.archive.empty() && source.suite == release) {
      out.archive = base_url(source.uri);
    } else if (out.security.empty() && source.suite == release + "-security") {
      out.security = base_url(source.uri);
    }
  }
  if (out.archive.empty()) {
    return fail(Code::not_found, "apt on this machine knows no Debian mirror", "give one with --mirror URL");
  }
  return out;
}

Result<DebianMirrors> mirrors_from_apt(const fs::path& etc_apt) {
  std::vector<AptSource> sources;
  const auto add = [&](std::vector<AptSource> more) {
    sources.insert(sources.end(), std::make_move_iterator(more.begin()), std::make_move_iterator(more.end()));
  };
  if (const auto text = base::read_file(etc_apt / "sources.list")) {
    add(parse_sources_list(*text));
  }
  std::vector<fs::path> parts;
  std::error_code error;
  for (fs::directory_iterator it(etc_apt / "sources.list.d", error); !error && it != fs::directory_iterator();
       it.increment(error)) {
    parts.push_back(it->path());
  }
  std::ranges::sort(parts);
  for (const auto& part : parts) {
    const auto text = base::read_file(part);
    if (text && part.extension() == ".list") {
      add(parse_sources_list(*text));
    } else if (text && part.extension() == ".sources") {
      add(parse_deb822_sources(*text));
    }
  }
  return choose_mirrors(sources);
}

}  // namespace dstack::host
