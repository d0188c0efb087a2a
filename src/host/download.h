// Downloads that survive interruption: what has arrived is kept in `<directory>/.<name>.partial` and
// continued by the next attempt, as long as it still is the same file.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "base/fd.h"
#include "base/result.h"
#include "net/fetch.h"

namespace dstack::host {

struct Download {
  net::Url url;
  std::string name;  // a file name
  std::filesystem::path directory;
  std::optional<std::string> sha256;  // lower hex; what the file must have
  std::optional<std::uint64_t> size;
  std::uint64_t max_size = std::uint64_t{16} << 30;
  net::FetchOptions fetch;
  // Attempts after one that got somewhere before it broke off, and the pause before each.
  unsigned retries = 3;
  std::chrono::milliseconds pause{2'000};
  // Called often; `total` is absent while it is not known.
  std::function<void(std::uint64_t done, std::optional<std::uint64_t> total)> on_progress;
  std::function<void(std::string_view line)> on_note;  // "resuming at ...", in words
};

// A complete, checked file. It stays locked until destruction and is the caller's to remove.
struct Downloaded {
  std::filesystem::path file;
  std::string sha256;
  std::uint64_t size = 0;
  bool resumed = false;
  base::Fd lock;
};

// Code::download says what is wrong and whether the part that has arrived was kept. Code::locked when another
// process downloads the same file.
base::Result<Downloaded> download(const Download& what);

// Removes what a download of `name` left in `directory`.
base::Result<> discard_download(const std::filesystem::path& directory, const std::string& name);

// The error for an answer that is no success: what the status means and what to do about it.
base::Error describe_refusal(const net::Fetched& answer, const std::string& what);

// "bytes FIRST-LAST/TOTAL"; nullopt for anything else. `total` is absent for "*".
struct ContentRange {
  std::uint64_t first = 0;
  std::uint64_t last = 0;
  std::optional<std::uint64_t> total;
};
std::optional<ContentRange> parse_content_range(std::string_view text);

}  // namespace dstack::host
