#include "integration/installed_host.h"

#include <cstdlib>
#include <nlohmann/json.hpp>

#include "app/allowlist_file.h"
#include "base/format.h"
#include "base/fs.h"
#include "host/cgroup.h"
#include "host/ports.h"
#include "host/state.h"

namespace dstack::test {

namespace {

const std::string k_app = "00112233445566778899aabbccddeeff00112233";

}  // namespace

InstalledHost::InstalledHost(std::optional<std::string> prefix, std::vector<std::string> flags)
    : m_prefix(std::move(prefix)), m_flags(std::move(flags)), m_layout(*host::Layout::make(m_prefix)) {}

std::vector<std::filesystem::path> InstalledHost::extra() const {
  return m_prefix ? std::vector<std::filesystem::path>{std::filesystem::path(*m_prefix).parent_path()}
                  : std::vector<std::filesystem::path>{};
}

std::vector<std::string> InstalledHost::with_place(std::vector<std::string> argv) const {
  argv.front() = (sandbox_programs() / argv.front()).string();
  if (m_prefix) {
    argv.insert(argv.end(), {"--prefix", *m_prefix});
  }
  return argv;
}

std::vector<std::string> InstalledHost::install(std::vector<std::string> more) const {
  auto argv = with_place(
      {"dstackup", "install", "--platform", "simulated", "--no-kms", "--qemu", stand_in_qemu().string()});
  argv.insert(argv.end(), m_flags.begin(), m_flags.end());
  argv.insert(argv.end(), more.begin(), more.end());
  return argv;
}

std::vector<std::string> InstalledHost::destroy(std::vector<std::string> more) const {
  auto argv = with_place({"dstackup", "destroy"});
  argv.insert(argv.end(), more.begin(), more.end());
  return argv;
}

base::Output InstalledHost::run(const std::vector<std::string>& argv) const {
  auto output = base::run({.argv = argv, .timeout = std::chrono::seconds(90)});
  return output ? std::move(*output) : base::Output{.exit_code = -1, .out = {}, .err = output.error().what()};
}

host::InstallState InstalledHost::state() const {
  return host::load_state(m_layout.state_file()).value().value();
}

std::string InstalledHost::not_converged() const {
  const auto again = run(install({"--json"}));
  if (again.exit_code != 0) {
    return "install fails: " + again.err;
  }
  const auto json = nlohmann::json::parse(again.out, nullptr, false);
  if (!json.is_object() || json.value("changed", true)) {
    return "install is not done after an install: " + again.err + again.out;
  }
  const auto state = host::load_state(m_layout.state_file());
  if (!state || !*state) {
    return "there is no record";
  }
  for (const auto port : {(*state)->dashboard_port(), (*state)->auth_port, (*state)->host_api_port}) {
    if (const auto free = host::port_is_free("127.0.0.1", port); !free || *free) {
      return base::format("nobody listens on {}", port);
    }
  }
  return {};
}

std::string InstalledHost::go_on() const {
  if (const auto first = run(install()); first.exit_code != 0) {
    return "install does not go on: " + first.err;
  }
  return not_converged();
}

std::string InstalledHost::take_away() const {
  if (const auto gone = run(destroy()); gone.exit_code != 0) {
    return "destroy fails: " + gone.err;
  }
  const auto left = left_behind();
  return left.empty() ? "" : "destroy --purge leaves\n" + left;
}

void InstalledHost::wipe() const {
  kill_everything();
  std::error_code ignored;
  for (const auto& path : {m_layout.config, m_layout.state, m_layout.cache, m_layout.run, m_layout.libexec,
                           m_layout.bin / "dstackup", m_layout.bin / "dstack"}) {
    std::filesystem::remove_all(path, ignored);
  }
  if (const auto mount = host::find_cgroup2_mount().value()) {
    (void)host::Cgroup(*mount + "/dstack").remove();
  }
}

std::string InstalledHost::identity() const {
  return base::read_file(m_layout.token_file()).value_or("") +
         base::read_file(m_layout.simulated_seed()).value_or("");
}

void InstalledHost::register_app() const {
  const auto done = app::AllowlistFile(m_layout.allowlist()).register_app(k_app, std::string(64, 'b'));
  ASSERT_TRUE(done) << done.error().what();
}

bool InstalledHost::has_app() const {
  const auto apps = app::AllowlistFile(m_layout.allowlist()).apps();
  return apps && apps->size() == 1 && apps->front().app_id == k_app;
}

}  // namespace dstack::test
