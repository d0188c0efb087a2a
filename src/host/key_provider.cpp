#include "host/key_provider.h"

#include <unistd.h>

#include <charconv>

#include "base/format.h"
#include "base/process.h"

namespace dstack::host {

using base::Code;
using base::fail;
using base::Result;

namespace {

constexpr std::chrono::minutes k_pull_limit{30};  // it may fetch its images first

Result<> check_flags(PlatformKind platform, const KeyProviderFlags& flags) {
  const auto refuse = [&](const char* flag) {
    return fail(Code::invalid_argument,
                base::format("{} is for the platform tdx, this is {}", flag, to_string(platform)),
                base::format("leave {} out", flag));
  };
  if (platform == PlatformKind::simulated && flags.port) {
    return refuse("--key-provider-port");
  }
  if (platform != PlatformKind::tdx && flags.source) {
    return refuse("--key-provider-src");
  }
  if (platform == PlatformKind::simulated && flags.existing) {
    return refuse("--use-existing-key-provider");
  }
  if (flags.port && *flags.port == 0) {
    return fail(Code::invalid_argument, "--key-provider-port 0 is not usable",
                "choose a port between 1 and 65535");
  }
  return {};
}

Result<KeyProviderPlan> existing(const std::string& text) {
  const auto bad = [&] {
    return fail(Code::invalid_argument,
                base::format("--use-existing-key-provider '{}' is not ADDRESS:PORT", text),
                "write it as 127.0.0.1:3443");
  };
  const auto colon = text.rfind(':');
  if (colon == std::string::npos || colon == 0) {
    return bad();
  }
  KeyProviderPlan out;
  out.address = text.substr(0, colon);
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data() + colon + 1, end, out.port);
  if (error != std::errc{} || stop != end || out.port == 0) {
    return bad();
  }
  return out;
}

std::string docker_program(const std::string& given) {
  return base::find_tool(given.empty() ? "docker" : given).value_or("");
}

Result<> run_docker(const std::string& program, std::vector<std::string> arguments,
                    std::vector<std::string> environment) {
  base::Command command;
  command.argv = {program, "compose"};
  command.argv.insert(command.argv.end(), arguments.begin(), arguments.end());
  command.environment = std::move(environment);
  command.timeout = k_pull_limit;
  auto output = base::run_checked(command);
  if (!output) {
    return fail(base::Error{Code::key_provider, "docker compose failed for the SGX key provider",
                            output.error().what(),
                            "see the containers with \"docker ps -a\", or name a provider that runs with "
                            "--use-existing-key-provider"});
  }
  return {};
}

}  // namespace

std::string key_provider_project(std::uint16_t port) {
  return base::format("dstack-kp-{}", port);
}

Result<KeyProviderPlan> plan_key_provider(PlatformKind platform, const KeyProviderFlags& flags,
                                          const Layout& layout) {
  DS_CHECK(check_flags(platform, flags));
  if (platform == PlatformKind::simulated) {
    return KeyProviderPlan();
  }
  if (flags.existing) {
    return existing(*flags.existing);
  }
  KeyProviderPlan out;
  out.address = "127.0.0.1";
  out.port = flags.port.value_or(k_default_key_provider_port);
  if (platform != PlatformKind::tdx || flags.no_start) {
    return out;
  }
  const auto directory =
      flags.source ? std::filesystem::path(*flags.source) : layout.share / "local-key-provider/build";
  out.compose_file = directory / "docker-compose.yaml";
  out.project = key_provider_project(out.port);
  if (::access(out.compose_file.c_str(), R_OK) != 0) {
    return fail(
        Code::key_provider,
        base::format("there is no SGX key provider to start: {} cannot be read", out.compose_file.string()),
        "name its directory with --key-provider-src, or one that runs with --use-existing-key-provider");
  }
  return out;
}

Result<> start_key_provider(const KeyProviderPlan& plan, const std::string& docker) {
  const auto program = docker_program(docker);
  if (program.empty()) {
    return fail(Code::key_provider, "docker is not installed, so the SGX key provider cannot be managed",
                "install docker with its compose plugin, or name a provider that runs with "
                "--use-existing-key-provider");
  }
  return run_docker(program, {"-p", plan.project, "-f", plan.compose_file.string(), "up", "-d"},
                    {base::format("KEY_PROVIDER_PORT={}", plan.port)});
}

Result<bool> stop_key_provider(const std::string& project, const std::string& docker) {
  const auto program = docker_program(docker);
  if (program.empty()) {
    return false;
  }
  DS_CHECK(run_docker(program, {"-p", project, "down"}, {}));
  return true;
}

}  // namespace dstack::host
