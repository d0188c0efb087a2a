#include "host/support.h"

#include <archive.h>
#include <archive_entry.h>
#include <fcntl.h>
#include <sys/klog.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <functional>
#include <memory>

#include "base/fd.h"
#include "base/format.h"
#include "base/fs.h"
#include "base/process.h"
#include "host/redact.h"
#include "host/service_manager.h"
#include "host/unit_journal.h"

namespace dstack::host {

using base::Code;
using base::Result;

namespace {

constexpr std::size_t k_tail = 512UL * 1024;
constexpr std::size_t k_max_file = 4UL * 1024 * 1024;
constexpr std::size_t k_max_vms = 50;
constexpr std::size_t k_unit_lines = 2000;

// The end of a regular file, cut at a line.
Result<std::string> read_tail(const fs::path& path, std::size_t limit) {
  const base::Fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
  struct stat info = {};
  if (!fd || ::fstat(fd.get(), &info) != 0) {
    return base::fail_errno(errno == ENOENT ? Code::not_found : Code::io, "cannot read " + path.string(),
                            errno);
  }
  if (!S_ISREG(info.st_mode)) {
    return base::fail(Code::io, path.string() + " is not a regular file");
  }
  const auto size = static_cast<std::size_t>(info.st_size);
  const bool cut = size > limit;
  std::string out(std::min(size, limit), '\0');
  std::size_t done = 0;
  while (done < out.size()) {
    const auto n = ::pread(fd.get(), out.data() + done, out.size() - done,
                           static_cast<off_t>((cut ? size - limit : 0) + done));
    if (n <= 0) {
      break;
    }
    done += static_cast<std::size_t>(n);
  }
  out.resize(done);
  if (cut) {
    const auto line = out.find('\n');
    out.erase(0, line == std::string::npos ? 0 : line + 1);
    out.insert(0, base::format("[the last {} of {} bytes]\n", out.size(), size));
  }
  return out;
}

std::vector<fs::path> entries(const fs::path& directory) {
  std::vector<fs::path> out;
  std::error_code error;
  for (fs::directory_iterator it(directory, error), end; !error && it != end; it.increment(error)) {
    out.push_back(it->path());
  }
  std::ranges::sort(out);
  return out;
}

// Reads what is secret, so that it is known by sight.
void learn_secrets(const Layout& layout, Redactor& redactor) {
  const auto lines = [&](const fs::path& path) {
    if (const auto text = read_tail(path, k_max_file)) {
      redactor.add_lines(*text);
    }
  };
  const auto json = [&](const fs::path& path) {
    if (const auto text = read_tail(path, k_max_file); text && !redactor.add_json(*text)) {
      redactor.add_lines(*text);
    }
  };
  lines(layout.token_file());
  lines(layout.simulated_seed());
  for (const auto& file : entries(layout.config)) {
    if (file.extension() == ".key") {
      lines(file);
    }
  }
  for (const auto& vm : entries(layout.vms())) {
    lines(vm / "host-api.token");
    json(vm / "shared/.sys-config.json");
    json(vm / "shared/.tee-simulator.json");
    json(vm / "shared/.user-config");
  }
}

class Collector {
 public:
  Collector(std::vector<SupportItem>& out, std::string& problems) : m_out(out), m_problems(problems) {}

  void text(std::string name, std::string text) { m_out.push_back({std::move(name), std::move(text)}); }
  // A missing file is nothing to report unless it is `expected`.
  void file(std::string name, const fs::path& path, bool expected = false) {
    auto content = read_tail(path, k_tail);
    if (content) {
      text(std::move(name), std::move(*content));
    } else if (expected || content.error().code != Code::not_found) {
      problem(content.error().what());
    }
  }
  void command(std::string name, std::vector<std::string> argv) {
    base::Command command;
    command.argv = std::move(argv);
    command.timeout = std::chrono::seconds(10);
    const auto output = base::run(command);
    if (output) {
      text(std::move(name), output->out + output->err);
    } else {
      problem(output.error().what());
    }
  }
  void problem(const std::string& what) { m_problems += what + "\n"; }

 private:
  std::vector<SupportItem>& m_out;
  std::string& m_problems;
};

void add_configuration(const Layout& layout, Collector& collect) {
  for (const auto& path : {layout.vmm_toml(), layout.kms_toml(), layout.kms_ca(), layout.allowlist()}) {
    collect.file("config/" + path.filename().string(), path, path == layout.vmm_toml());
  }
  for (const auto& path : entries(layout.config)) {
    if (path.extension() == ".pem" && path != layout.kms_ca()) {
      collect.file("config/" + path.filename().string(), path);
    }
  }
  collect.file("state/dstackup-state.json", layout.state_file(), true);
  collect.file("state/journal", layout.journal(), true);
  for (const auto& path : {layout.last_state_file(), fs::path(layout.state_file().string() + ".corrupt"),
                           layout.volume_index()}) {
    collect.file("state/" + path.filename().string(), path);
  }
}

void add_logs(const Layout& layout, const std::string& instance, Collector& collect) {
  for (const auto& path : entries(layout.logs())) {
    collect.file("log/" + path.filename().string(), path);
  }
  for (const auto& path : entries(layout.run)) {
    if (path.extension() == ".log") {
      collect.file("log/" + path.filename().string(), path);
    }
  }
  if (!systemd_is_running()) {
    return;
  }
  for (const auto* service : {"dstack-auth", "dstack-vmm"}) {
    const auto unit = unit_name(service, instance);
    collect.file("systemd/" + unit + ".service", "/etc/systemd/system/" + unit + ".service");
    const auto lines = unit_log(unit + ".service", k_unit_lines);
    if (!lines) {
      collect.problem(lines.error().what());
      continue;
    }
    std::string text;
    for (const auto& line : *lines) {
      text += line + "\n";
    }
    collect.text("systemd/" + unit + ".log", std::move(text));
  }
}

void add_vms(const Layout& layout, Collector& collect) {
  auto vms = entries(layout.vms());
  if (vms.size() > k_max_vms) {
    collect.problem(base::format("{} of {} VMs are left out", vms.size() - k_max_vms, vms.size()));
    vms.resize(k_max_vms);
  }
  for (const auto& vm : vms) {
    const auto name = "vm/" + vm.filename().string() + "/";
    for (const auto& file : entries(vm)) {
      if (file.extension() == ".log" || file.extension() == ".json") {
        collect.file(name + file.filename().string(), file);
      }
    }
    for (const auto* file : {".sys-config.json", ".instance_info"}) {
      collect.file(name + file, vm / "shared" / file);
    }
  }
}

// Names and sizes: what is where, and what a crash left.
std::string listing(const Layout& layout) {
  std::string out;
  for (const auto& top : {layout.config, layout.state, layout.run, layout.cache}) {
    std::error_code error;
    out += top.string() + ":\n";
    std::size_t count = 0;
    for (fs::recursive_directory_iterator it(top, error), end; !error && it != end && count < 5000;
         it.increment(error), ++count) {
      struct stat info = {};
      if (::lstat(it->path().c_str(), &info) == 0) {
        out += base::format("  {:06o} {:>4} {:>12} {}\n", info.st_mode, info.st_uid, info.st_size,
                            it->path().lexically_relative(top).string());
      }
      if (it.depth() >= 3) {
        it.disable_recursion_pending();
      }
    }
  }
  return out;
}

// The command lines of our programs and of QEMU.
std::string processes(const fs::path& proc) {
  std::string out;
  for (const auto& entry : entries(proc)) {
    const auto name = entry.filename().string();
    if (name.empty() || name.find_first_not_of("0123456789") != std::string::npos) {
      continue;
    }
    const auto words = base::read_file(entry / "cmdline").value_or("");
    const auto program = fs::path(words.substr(0, words.find('\0'))).filename().string();
    if (program.starts_with("dstack") || program.starts_with("qemu-system")) {
      // Word by word, for a secret may hold any character.
      out += name + " " + redacted_command_line(words) + "\n";
    }
  }
  return out;
}

std::string kernel_log() {
  std::string out(256UL * 1024, '\0');
  constexpr int k_read_all = 3;
  const int n = ::klogctl(k_read_all, out.data(), static_cast<int>(out.size()));
  out.resize(n > 0 ? static_cast<std::size_t>(n) : 0);
  return out;
}

void add_host(const Layout& layout, const fs::path& proc, Collector& collect) {
  utsname name = {};
  ::uname(&name);
  collect.text("host/versions.txt",
               base::format("dstackup {}\n{} {} {} {}\nsystemd is {}PID 1\n", DSTACK_VERSION, name.sysname,
                            name.release, name.version, name.machine, systemd_is_running() ? "" : "not "));
  collect.file("host/os-release", "/usr/lib/os-release");
  for (const auto* file : {"cpuinfo", "meminfo", "mounts", "cmdline", "modules"}) {
    // Files of /proc have no size to seek in.
    if (auto text = base::read_file(proc / file)) {
      collect.text(std::string("host/") + file, text->substr(0, k_tail));
    }
  }
  for (const auto* file : {"net/tcp", "net/tcp6"}) {
    if (auto text = base::read_file(proc / file)) {
      collect.text("host/" + fs::path(file).filename().string(), text->substr(0, k_tail));
    }
  }
  for (const auto* device :
       {"/dev/kvm", "/dev/vhost-vsock", "/dev/sgx_enclave", "/dev/sgx_provision", "/dev/sev"}) {
    struct stat info = {};
    if (::stat(device, &info) == 0) {
      collect.text("host/devices" + std::string(device), base::format("{:06o}\n", info.st_mode));
    }
  }
  if (const auto qemu = base::find_tool("qemu-system-x86_64")) {
    collect.command("host/qemu-version.txt", {*qemu, "--version"});
  }
  if (const auto df = base::find_tool("df")) {
    collect.command("host/disk-space.txt", {*df, "-k"});
  }
  collect.text("host/processes.txt", processes(proc));
  collect.text("host/kernel.log", kernel_log());
  collect.text("files.txt", listing(layout));
}

struct FreeArchive {
  void operator()(archive* writer) const { archive_write_free(writer); }
};

}  // namespace

std::vector<SupportItem> collect_support(const Layout& layout, const std::string& instance,
                                         std::vector<SupportItem> extra, const std::filesystem::path& proc) {
  std::vector<SupportItem> out = std::move(extra);
  std::string problems;
  Collector collect(out, problems);
  add_configuration(layout, collect);
  add_logs(layout, instance, collect);
  add_vms(layout, collect);
  add_host(layout, proc, collect);
  if (!problems.empty()) {
    collect.text("problems.txt", problems);
  }
  // Last: a secret that was made meanwhile is known then.
  Redactor redactor;
  learn_secrets(layout, redactor);
  for (auto& item : out) {
    item.text = redactor.apply(item.text);
  }
  return out;
}

Result<> write_support_archive(const std::filesystem::path& path, const std::string& directory,
                               const std::vector<SupportItem>& items, std::time_t now) {
  const std::unique_ptr<archive, FreeArchive> writer(archive_write_new());
  std::string out;
  const auto append = [](archive*, void* target, const void* data, std::size_t size) {
    static_cast<std::string*>(target)->append(static_cast<const char*>(data), size);
    return static_cast<la_ssize_t>(size);
  };
  const auto failed = [&] {
    return base::fail(base::Error{
        Code::io,
        "cannot make the archive",
        archive_error_string(writer.get()) == nullptr ? "out of memory" : archive_error_string(writer.get()),
        {}});
  };
  if (archive_write_set_format_ustar(writer.get()) != ARCHIVE_OK ||
      archive_write_add_filter_gzip(writer.get()) != ARCHIVE_OK ||
      archive_write_open(writer.get(), &out, nullptr, append, nullptr) != ARCHIVE_OK) {
    return failed();
  }
  for (const auto& item : items) {
    const std::unique_ptr<archive_entry, void (*)(archive_entry*)> entry(archive_entry_new(),
                                                                         archive_entry_free);
    archive_entry_set_pathname(entry.get(), (directory + "/" + item.name).c_str());
    archive_entry_set_filetype(entry.get(), AE_IFREG);
    archive_entry_set_perm(entry.get(), 0600);
    archive_entry_set_mtime(entry.get(), now, 0);
    archive_entry_set_size(entry.get(), static_cast<la_int64_t>(item.text.size()));
    if (archive_write_header(writer.get(), entry.get()) != ARCHIVE_OK ||
        (!item.text.empty() && archive_write_data(writer.get(), item.text.data(), item.text.size()) !=
                                   static_cast<la_ssize_t>(item.text.size()))) {
      return failed();
    }
  }
  if (archive_write_close(writer.get()) != ARCHIVE_OK) {
    return failed();
  }
  return base::write_file_atomic(path, out, {.mode = 0600, .force_mode = true});
}

}  // namespace dstack::host
