#include "host/unit_file.h"

#include <algorithm>
#include <cctype>
#include <filesystem>
#include <optional>

#include "base/format.h"
#include "base/log.h"
#include "base/process.h"
#include "base/utf8.h"

namespace dstack::host {

using base::Code;
using base::Result;

namespace {

constexpr std::size_t k_longest_name = 200;

// What no service of ours needs.
constexpr std::string_view k_hardening = R"(UMask=0077
NoNewPrivileges=yes
CapabilityBoundingSet=
AmbientCapabilities=
ProtectSystem=strict
PrivateMounts=yes
PrivateIPC=yes
ProtectClock=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectControlGroups=yes
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
RemoveIPC=yes
KeyringMode=private
DevicePolicy=closed
SystemCallArchitectures=native
SystemCallErrorNumber=EPERM
SystemCallFilter=@system-service
SystemCallFilter=~@privileged @resources
)";

constexpr std::string_view k_strict = R"(DynamicUser=yes
PrivateDevices=yes
PrivateUsers=yes
ProtectProc=invisible
ProcSubset=pid
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
MemoryDenyWriteExecute=yes
IPAddressDeny=any
IPAddressAllow=localhost
)";

// root without capabilities: it may ask systemd to start VMs and reads files that only root may read. No
// ProtectProc: its VMs are other users' processes, which it finds again in /proc. No MemoryDenyWriteExecute:
// QEMU, which it asks for its abilities, may need memory that is writable and executable.
constexpr std::string_view k_launcher = R"(RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
DeviceAllow=/dev/kvm rw
)";

bool is_control(char c) {
  return static_cast<unsigned char>(c) < 0x20 || c == 0x7f;
}

Result<> check_text(std::string_view text) {
  if (text.find('\0') != std::string_view::npos || !base::is_utf8(text)) {
    return base::fail(Code::invalid_argument,
                      base::format("'{}' cannot be written into a unit file", base::escape_control(text)),
                      "use UTF-8 text without NUL");
  }
  return {};
}

Result<> check_path(std::string_view path, std::string_view what) {
  DS_CHECK(check_text(path));
  if (path.empty() || path.front() != '/' || std::ranges::any_of(path, is_control)) {
    return base::fail(Code::invalid_argument,
                      base::format("{} '{}' is not usable in a unit file", what, base::escape_control(path)),
                      "give an absolute path without control characters");
  }
  return {};
}

std::string milliseconds(std::chrono::milliseconds time) {
  return base::format("{}ms", time.count());
}

bool is_below(std::string_view path, std::string_view directory) {
  return path == directory || (path.starts_with(directory) && path[directory.size()] == '/');
}

bool is_home(std::string_view path) {
  return is_below(path, "/home") || is_below(path, "/root") || is_below(path, "/run/user");
}

// In a directory that the sandbox shows empty.
bool is_hidden(std::string_view path) {
  return is_home(path) || is_below(path, "/tmp") || is_below(path, "/var/tmp");
}

// The name below /run, for "/run/<name>" only: such a directory is gone after a reboot, so systemd has to
// make it.
std::optional<std::string> runtime_directory(std::string_view path) {
  constexpr std::string_view k_run = "/run/";
  if (!path.starts_with(k_run)) {
    return std::nullopt;
  }
  const auto name = path.substr(k_run.size());
  const auto plain = [](char c) {
    return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '-' || c == '_';
  };
  if (name.empty() || !std::ranges::all_of(name, plain)) {
    return std::nullopt;
  }
  return std::string(name);
}

// A path in one of systemd's lists; the '-' says that it may be missing.
Result<std::string> list_line(std::string_view key, const std::string& path) {
  DS_CHECK(check_path(path, "path"));
  DS_TRY(const auto word, quote_unit_word("-" + path));
  return base::format("{}={}\n", key, word);
}

Result<std::string> sandbox_paths(const ServiceSpec& spec) {
  std::string text = "PrivateTmp=yes\n";
  bool needs_home = false;
  for (const auto& path : spec.writable_paths) {
    if (const auto name = runtime_directory(path)) {
      text += base::format("RuntimeDirectory={}\nRuntimeDirectoryPreserve=yes\n", *name);
      continue;
    }
    DS_TRY(const auto line, list_line(is_hidden(path) ? "BindPaths" : "ReadWritePaths", path));
    text += line;
    needs_home = needs_home || is_home(path);
  }
  auto readable = spec.readable_paths;
  readable.push_back(std::filesystem::path(spec.argv.front()).parent_path().string());
  std::ranges::sort(readable);
  readable.erase(std::ranges::unique(readable).begin(), readable.end());
  for (const auto& path : readable) {
    // What is below a writable path is there already, and must not become read-only.
    const bool covered = std::ranges::any_of(
        spec.writable_paths, [&](const std::string& writable) { return is_below(path, writable); });
    if (is_hidden(path) && !covered) {
      DS_TRY(const auto line, list_line("BindReadOnlyPaths", path));
      text += line;
      needs_home = needs_home || is_home(path);
    }
  }
  return text + base::format("ProtectHome={}\n", needs_home ? "tmpfs" : "yes");
}

std::string limits(const ServiceSpec& spec) {
  std::string text;
  if (spec.memory_max != 0) {
    text += base::format("MemoryMax={}\n", spec.memory_max);
  }
  if (spec.tasks_max != 0) {
    text += base::format("TasksMax={}\n", spec.tasks_max);
  }
  if (spec.open_files != 0) {
    text += base::format("LimitNOFILE={}\n", spec.open_files);
  }
  return text;
}

Result<std::string> exec_line(const std::vector<std::string>& argv) {
  if (argv.empty()) {
    return base::fail(Code::invalid_argument, "a service without a program");
  }
  DS_CHECK(check_path(argv.front(), "program"));
  if (argv.front().find_first_of("\"'\\") != std::string::npos) {
    return base::fail(Code::invalid_argument,
                      base::format("systemd does not run a program of the path '{}'", argv.front()),
                      "choose a directory without quotes and backslashes in its name");
  }
  std::string line = "ExecStart=";
  for (std::size_t i = 0; i < argv.size(); ++i) {
    // ':' turns off the expansion of $NAME, in all words.
    DS_TRY(const auto word, quote_unit_word((i == 0 ? ":" : "") + argv[i]));
    line += (i == 0 ? "" : " ") + word;
  }
  return line + "\n";
}

}  // namespace

Result<> check_unit_name(std::string_view name) {
  const auto good = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' ||
           c == '_' || c == '-';
  };
  if (name.empty() || name.size() > k_longest_name || name.front() == '.' || name.front() == '-' ||
      !std::ranges::all_of(name, good)) {
    return base::fail(
        Code::invalid_argument,
        base::format("'{}' cannot be the name of a service", base::escape_control(name.substr(0, 256))),
        "use letters, digits, dots, underscores and hyphens, and begin with a letter or digit");
  }
  return {};
}

Result<std::string> quote_unit_word(std::string_view word) {
  DS_CHECK(check_text(word));
  std::string out = "\"";
  for (const char c : word) {
    switch (c) {
      case '%':
        out += "%%";
        break;
      case '"':
        out += "\\\"";
        break;
      case '\\':
        out += "\\\\";
        break;
      case '\n':
        out += "\\n";
        break;
      case '\r':
        out += "\\r";
        break;
      case '\t':
        out += "\\t";
        break;
      default:
        out += is_control(c) ? base::format("\\x{:02x}", static_cast<unsigned>(c)) : std::string(1, c);
    }
  }
  return out + "\"";
}

Result<std::string> plain_unit_value(std::string_view value) {
  DS_CHECK(check_text(value));
  if (value.empty() || std::ranges::any_of(value, is_control) || value.front() == ' ' ||
      value.back() == ' ' || value.back() == '\\') {
    return base::fail(Code::invalid_argument,
                      base::format("'{}' cannot be written into a unit file", base::escape_control(value)),
                      "use text without control characters, not ending in a space or a backslash");
  }
  std::string out;
  for (const char c : value) {
    out += c == '%' ? std::string("%%") : std::string(1, c);
  }
  return out;
}

Result<std::string> render_unit(const ServiceSpec& spec) {
  DS_CHECK(check_unit_name(spec.name));
  std::string text = std::string(k_unit_marker) + "\n[Unit]\n";
  DS_TRY(const auto description, plain_unit_value(spec.description));
  text += base::format("Description={}\nAfter=network.target", description);
  std::string wants;
  for (const auto& name : spec.after) {
    DS_CHECK(check_unit_name(name));
    text += " " + name + ".service";
    wants += "Wants=" + name + ".service\n";
  }
  text += "\n" + wants;
  text += base::format("StartLimitIntervalSec={}\nStartLimitBurst={}\n",
                       milliseconds(spec.start_limit_interval), spec.start_limit);

  DS_TRY(const auto exec, exec_line(spec.argv));
  text += "\n[Service]\nType=notify\nNotifyAccess=main\n" + exec;
  auto environment = spec.environment;
  environment.insert(environment.begin(), {std::string("PATH=") + base::k_tool_path, "LANG=C.UTF-8"});
  for (const auto& variable : environment) {
    DS_TRY(const auto word, quote_unit_word(variable));
    text += "Environment=" + word + "\n";
  }
  if (!spec.directory.empty()) {
    DS_CHECK(check_path(spec.directory, "directory"));
    DS_TRY(const auto directory, plain_unit_value(spec.directory));
    // A user of its own may not be let into it, and needs it for nothing.
    text += base::format("WorkingDirectory={}{}\n", spec.sandbox == Sandbox::strict ? "-" : "", directory);
  }
  // VMs are units of their own, so what is left in this one's cgroup can go with it.
  text += base::format(
      "Restart=always\nRestartSec={}\nTimeoutStartSec={}\nTimeoutStopSec={}\nKillMode=control-group\n",
      milliseconds(spec.restart_delay), milliseconds(spec.start_timeout), milliseconds(spec.stop_timeout));
  text += limits(spec);
  if (spec.sandbox != Sandbox::none) {
    DS_TRY(const auto paths, sandbox_paths(spec));
    text += std::string(k_hardening) + std::string(spec.sandbox == Sandbox::strict ? k_strict : k_launcher) +
            paths;
  }
  return text + "\n[Install]\nWantedBy=multi-user.target\n";
}

}  // namespace dstack::host
