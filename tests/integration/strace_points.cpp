#include "integration/strace_points.h"

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <map>
#include <set>
#include <sstream>

#include "base/format.h"
#include "unit/temp_dir.h"

namespace dstack::test {

namespace {

std::string text_of(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

base::Output run_traced(std::vector<std::string> strace, const std::vector<std::string>& argv) {
  std::ranges::copy(argv, std::back_inserter(strace));
  auto output = base::run({.argv = std::move(strace), .timeout = std::chrono::seconds(120)});
  return output ? std::move(*output) : base::Output{.exit_code = -1, .out = {}, .err = output.error().what()};
}

}  // namespace

bool full_sweep() {
  return std::getenv("DSTACK_FULL_SWEEP") != nullptr;
}

std::string strace_problem() {
  if (!base::find_tool("strace")) {
    return "strace is not installed";
  }
  const auto probe = base::run({.argv = {"strace", "-qq", "-o", "/dev/null", "true"}});
  return probe && probe->exit_code == 0 ? "" : "strace may not trace here";
}

std::vector<SystemCall> trace_calls(const std::vector<std::string>& argv, base::Output& output) {
  const TempDir directory;
  const auto trace = directory / "trace";
  output = run_traced({"strace", "-qq", "-y", "-s", "64", "-o", trace.string()}, argv);
  std::vector<SystemCall> calls;
  std::map<std::string, int> count;
  std::istringstream lines(text_of(trace));
  for (std::string line; std::getline(lines, line);) {
    const auto bracket = line.find('(');
    if (bracket == std::string::npos || line.starts_with("---") || line.starts_with("+++")) {
      continue;
    }
    const auto name = line.substr(0, bracket);
    const int ordinal = ++count[name];
    if (name != "execve" && name != "exit_group") {
      calls.push_back({name, ordinal, line.substr(0, 200)});
    }
  }
  return calls;
}

Injected run_with_fault(const std::vector<std::string>& argv, const SystemCall& call,
                        const std::string& what) {
  const TempDir directory;
  const auto trace = directory / "trace";
  auto output = run_traced({"strace", "-qq", "-o", trace.string(), "-e", "trace=" + call.name, "-e",
                            base::format("inject={}:{}:when={}", call.name, what, call.ordinal)},
                           argv);
  const bool killed = output.exit_code == 128 + 9;
  const bool hit = killed || text_of(trace).find("(INJECTED)") != std::string::npos;
  return {std::move(output), hit};
}

bool changes_something(const SystemCall& call) {
  static const std::set<std::string> always = {
      "mkdir",     "mkdirat",  "rmdir",     "unlink",    "unlinkat",
      "rename",    "renameat", "renameat2", "chmod",     "fchmod",
      "fchmodat",  "chown",    "fchown",    "link",      "linkat",
      "symlink",   "fsync",    "fdatasync", "ftruncate", "truncate",
      "flock",     "kill",     "bind",      "connect",   "sendto",
      "sendmsg",   "clone",    "clone3",    "fork",      "vfork",
      "pwrite64",  "writev",   "utimensat", "mknod",     "mknodat",
      "fallocate", "mount",    "umount2",   "tgkill",    "pidfd_send_signal"};
  if (always.contains(call.name)) {
    return true;
  }
  if (call.name == "write") {
    return call.line.find("(1<") == std::string::npos && call.line.find("(2<") == std::string::npos;
  }
  const auto opened_to_change = [&](const char* flag) { return call.line.find(flag) != std::string::npos; };
  return (call.name == "openat" || call.name == "open") &&
         (opened_to_change("O_WRONLY") || opened_to_change("O_RDWR") || opened_to_change("O_CREAT") ||
          opened_to_change("O_TRUNC"));
}

std::vector<std::string> changes_to_files(const std::vector<std::string>& argv,
                                          const std::vector<std::string>& may_open, base::Output& output) {
  static const std::set<std::string> changing = {
      "mkdir",           "mkdirat",   "rmdir",     "unlink",    "unlinkat",  "rename",    "renameat",
      "renameat2",       "chmod",     "fchmod",    "fchmodat",  "chown",     "fchown",    "lchown",
      "fchownat",        "link",      "linkat",    "symlink",   "mknod",     "symlinkat", "truncate",
      "ftruncate",       "fallocate", "utimensat", "fsync",     "fdatasync", "pwrite64",  "pwritev",
      "copy_file_range", "sendfile",  "setxattr",  "fsetxattr", "creat"};
  const TempDir directory;
  const auto trace = directory / "trace";
  output = run_traced(
      {"strace", "-f", "-qq", "-y", "-s", "64", "-o", trace.string(), "-e", "trace=%file,%desc"}, argv);
  std::vector<std::string> out;
  std::istringstream lines(text_of(trace));
  for (std::string line; std::getline(lines, line);) {
    const auto begin = std::min(line.find_first_not_of("0123456789 "), line.size());
    const auto name = line.substr(begin, line.find('(', begin) - begin);
    const auto has = [&](std::string_view text) { return line.find(text) != std::string::npos; };
    bool counts = changing.contains(name);
    if (name == "openat" || name == "open") {
      counts = (has("O_WRONLY") || has("O_RDWR") || has("O_CREAT")) && !has("\"/dev/") &&
               std::ranges::none_of(may_open, [&](const auto& path) { return has("\"" + path + "\""); });
    } else if (name == "write" || name == "writev") {
      counts = !has("<pipe:[") && !has("<socket:[") && !has("</dev/null>") && !has("<TCP") && !has("<UNIX");
    }
    if (counts) {
      out.push_back(line);
    }
  }
  return out;
}

}  // namespace dstack::test
