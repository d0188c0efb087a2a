#include "host/coexistence.h"

#include <algorithm>
#include <charconv>

#include "base/bytes.h"
#include "base/format.h"
#include "base/fs.h"

namespace dstack::host {

using base::Code;
using base::Result;

namespace {

constexpr std::uint64_t k_cid_end = std::uint64_t{1} << 32;
constexpr std::uint32_t k_default_cid_start = 1000;

template <class Number>
std::optional<Number> parse_number(std::string_view text) {
  Number value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end == text.data() + text.size() && !text.empty() ? std::optional(value)
                                                                                   : std::nullopt;
}

// The number in "key = 123 # comment" when the trimmed line starts with `key`.
std::optional<std::uint32_t> number_after(std::string_view line, std::string_view key) {
  line = base::trim(line);
  if (!line.starts_with(key)) {
    return std::nullopt;
  }
  line = base::trim(line.substr(key.size()));
  if (!line.starts_with('=')) {
    return std::nullopt;
  }
  line = line.substr(1);
  return parse_number<std::uint32_t>(base::trim(line.substr(0, line.find('#'))));
}

template <class Function>
void for_each_piece(std::string_view text, std::string_view separators, Function function) {
  while (!text.empty()) {
    const auto end = text.find_first_of(separators);
    function(text.substr(0, end));
    text = end == std::string_view::npos ? std::string_view() : text.substr(end + 1);
  }
}

std::vector<std::string> arguments_of(const std::filesystem::path& process) {
  std::vector<std::string> out;
  const auto cmdline = base::read_file(process / "cmdline", 4 * 1024 * 1024);
  if (cmdline) {
    for_each_piece(*cmdline, std::string_view("\0", 1), [&](std::string_view piece) {
      if (!piece.empty()) {
        out.emplace_back(piece);
      }
    });
  }
  return out;
}

std::string config_of(const std::vector<std::string>& arguments) {
  for (const char* flag : {"-c", "--config"}) {
    const auto it = std::find(arguments.begin() + 1, arguments.end(), flag);
    if (it != arguments.end() && it + 1 != arguments.end()) {
      return *(it + 1);
    }
  }
  return {};
}

bool names_path_below(const std::vector<std::string>& arguments, const std::string& directory) {
  return !directory.empty() && std::ranges::any_of(arguments, [&](const std::string& argument) {
    return argument.find(directory + "/") != std::string::npos;
  });
}

void add_live_cids(const std::vector<std::string>& arguments, std::vector<CidRange>& out) {
  constexpr std::string_view k_key = "guest-cid=";
  for (const auto& argument : arguments) {
    for_each_piece(argument, ", ", [&](std::string_view token) {
      if (token.starts_with(k_key)) {
        if (const auto cid = parse_number<std::uint32_t>(token.substr(k_key.size()))) {
          out.push_back({*cid, std::uint64_t{*cid} + 1});
        }
      }
    });
  }
}

template <class Number>
void sort_and_unique(std::vector<Number>& numbers) {
  std::ranges::sort(numbers);
  const auto tail = std::ranges::unique(numbers);
  numbers.erase(tail.begin(), tail.end());
}

}  // namespace

std::optional<CidRange> read_cid_pool(std::string_view config) {
  std::optional<std::uint32_t> start;
  std::uint32_t size = k_cid_pool_size;
  for_each_piece(config, "\n", [&](std::string_view line) {
    if (const auto value = number_after(line, "cid_start")) {
      start = value;
    } else if (const auto pool = number_after(line, "cid_pool_size")) {
      size = *pool;
    }
  });
  if (!start) {
    return std::nullopt;
  }
  return CidRange{*start, std::min(std::uint64_t{*start} + size, k_cid_end)};
}

std::optional<std::uint32_t> read_host_api_port(std::string_view config) {
  std::optional<std::uint32_t> port;
  bool inside = false;
  for_each_piece(config, "\n", [&](std::string_view line) {
    const auto trimmed = base::trim(line);
    if (trimmed.starts_with('[')) {
      inside = trimmed == "[host_api]";
    } else if (inside && !port) {
      port = number_after(line, "port");
    }
  });
  return port;
}

std::vector<std::uint16_t> read_kms_ports(std::string_view config) {
  std::vector<std::uint16_t> out;
  for_each_piece(config, "\n", [&](std::string_view line) {
    if (!base::trim(line).starts_with("kms_urls")) {
      return;
    }
    for_each_piece(line, "\"'", [&](std::string_view url) {
      const auto scheme = url.find("://");
      if (scheme == std::string_view::npos) {
        return;
      }
      const auto authority = url.substr(scheme + 3, url.find('/', scheme + 3) - scheme - 3);
      const auto port = parse_number<std::uint16_t>(authority.substr(authority.rfind(':') + 1));
      if (port) {
        out.push_back(*port);
      }
    });
  });
  return out;
}

Coexistence scan_other_vmms(const OwnInstall& own, const std::filesystem::path& proc) {
  Coexistence out;
  std::error_code error;
  for (std::filesystem::directory_iterator it(proc, error), end; !error && it != end; it.increment(error)) {
    const auto name = it->path().filename().string();
    const auto pid = parse_number<pid_t>(name);
    if (!pid) {
      continue;
    }
    const auto arguments = arguments_of(it->path());
    if (arguments.empty() || names_path_below(arguments, own.vms.string()) ||
        std::ranges::find(own.vm_processes, *pid) != own.vm_processes.end()) {
      continue;
    }
    add_live_cids(arguments, out.cids);
    if (std::filesystem::path(arguments[0]).filename() != "dstack-vmm") {
      continue;
    }
    const auto config = config_of(arguments);
    // A relative path means that process's directory, not ours.
    const auto path = config.starts_with('/') ? std::filesystem::path(config) : it->path() / "cwd" / config;
    std::error_code missing;
    if (config.empty() || config == own.vmm_toml.string() ||
        std::filesystem::equivalent(path, own.vmm_toml, missing)) {
      continue;
    }
    out.vmms.push_back({*pid, config});
    const auto text = base::read_file(path);
    if (!text) {
      continue;
    }
    if (const auto pool = read_cid_pool(*text)) {
      out.cids.push_back(*pool);
    }
    if (const auto port = read_host_api_port(*text)) {
      out.host_api_ports.push_back(*port);
    }
    std::ranges::copy(read_kms_ports(*text), std::back_inserter(out.kms_ports));
  }
  std::ranges::sort(out.cids, {}, [](const CidRange& range) { return std::pair(range.begin, range.end); });
  sort_and_unique(out.host_api_ports);
  sort_and_unique(out.kms_ports);
  return out;
}

Result<std::uint32_t> choose_cid_start(std::optional<std::uint32_t> wanted,
                                       const std::vector<CidRange>& occupied) {
  const auto is_free = [&](std::uint64_t start) {
    return std::ranges::none_of(occupied, [&](const CidRange& range) {
      return start < range.end && range.begin < start + k_cid_pool_size;
    });
  };
  std::uint64_t highest = 0;
  for (const auto& range : occupied) {
    highest = std::max(highest, range.end);
  }
  const std::uint64_t next =
      std::max<std::uint64_t>(k_default_cid_start, (highest + 999) / k_cid_pool_size * k_cid_pool_size);
  const bool next_fits = next + k_cid_pool_size <= k_cid_end;
  if (wanted) {
    if (std::uint64_t{*wanted} + k_cid_pool_size > k_cid_end || *wanted < 3) {
      return base::fail(
          Code::cid_conflict,
          base::format("--cid-start {} leaves no room for {} VM addresses", *wanted, k_cid_pool_size),
          base::format("choose 3 to {}", k_cid_end - k_cid_pool_size));
    }
    if (!is_free(*wanted)) {
      return base::fail(Code::cid_conflict,
                        base::format("--cid-start {}: addresses {} to {} overlap another VM manager's",
                                     *wanted, *wanted, std::uint64_t{*wanted} + k_cid_pool_size - 1),
                        next_fits ? base::format("use --cid-start {}", next)
                                  : "choose a block that no other VM manager uses");
    }
    return *wanted;
  }
  if (is_free(k_default_cid_start)) {
    return k_default_cid_start;
  }
  if (next_fits) {
    return static_cast<std::uint32_t>(next);
  }
  // The block after the highest one does not exist: take the lowest that is free.
  for (std::uint64_t start = 2 * k_default_cid_start; start + k_cid_pool_size <= k_cid_end;
       start += k_cid_pool_size) {
    if (is_free(start)) {
      return static_cast<std::uint32_t>(start);
    }
  }
  return base::fail(Code::cid_conflict, "no block of VM addresses is free",
                    "stop one of the other VM managers");
}

}  // namespace dstack::host
