// dstack-auth: answers the KMS's question whether a boot may have its keys.
#include <iostream>
#include <optional>
#include <string>

#include "app/decision.h"
#include "auth/allowlist_cache.h"
#include "auth/explain.h"
#include "auth/webhook.h"
#include "base/bytes.h"
#include "base/format.h"
#include "base/fs.h"
#include "base/log.h"
#include "base/notify.h"
#include "cli/command.h"
#include "net/listen.h"
#include "net/resolve.h"
#include "net/server.h"

namespace {

using namespace dstack;
using base::Code;
using base::fail;

struct Options {
  std::string config = "/var/lib/dstack/auth-allowlist.json";
  std::optional<std::string> address;
  std::optional<std::uint16_t> port;
  std::string unix_path;
  std::string tls_certificate;
  std::string tls_key;
  std::string token_file;
  std::string policy = "single-operator";
  std::string log_level = "info";
  std::string explain_file;
  bool explain_kms = false;
  bool check = false;
};

constexpr const char* k_address = "127.0.0.1";
constexpr std::uint16_t k_port = 8001;

base::Result<app::Allowlist> load(const Options& options) {
  DS_TRY(auto loaded, auth::load_for_decisions(options.config, options.policy == "strict"));
  return std::move(loaded.allowlist);
}

base::Result<> check(const Options& options) {
  DS_TRY(const auto list, load(options));
  std::cout << options.config << " is valid\n" << auth::describe(list) << std::flush;
  return {};
}

base::Result<> explain(const Options& options) {
  DS_TRY(const auto list, load(options));
  DS_TRY(const auto text, base::read_file(options.explain_file, app::k_max_boot_info));
  DS_TRY(const auto boot, app::parse_boot_info(text));
  std::cout << auth::explain(list, boot, options.explain_kms) << std::flush;
  return {};
}

base::Result<std::string> read_token(const Options& options) {
  if (options.token_file.empty()) {
    return std::string();
  }
  DS_TRY(const auto text, base::read_file(options.token_file, 4096));
  std::string token(base::trim(text));
  if (token.size() < 16) {
    return fail(Code::invalid_argument,
                base::format("the token in {} is shorter than 16 characters", options.token_file),
                "write a random one, for example from \"openssl rand -hex 32\"");
  }
  return token;
}

base::Result<std::optional<net::ServerTls>> read_tls(const Options& options) {
  if (options.tls_certificate.empty()) {
    return std::nullopt;
  }
  net::ServerTls tls;
  DS_TRY(tls.certificate_chain_pem, base::read_file(options.tls_certificate, 1 << 20));
  DS_TRY(tls.private_key_pem, base::read_file(options.tls_key, 1 << 20));
  return tls;
}

base::Result<> check_exposure(const net::SocketAddress& address, bool has_tls, bool has_token) {
  if (!address.is_loopback() && (!has_tls || !has_token)) {
    return fail(Code::invalid_argument,
                base::format("{} is not a loopback address: that needs TLS and a token", address.to_string()),
                "give --tls-cert, --tls-key and --token-file, or listen on 127.0.0.1");
  }
  return {};
}

std::string url_of(const net::SocketAddress& address, bool has_tls) {
  return base::format("{}://{}", has_tls ? "https" : "http", address.to_string());
}

// Whether --address and --port, as far as they are given, name this socket.
bool is_named(const Options& options, const net::SocketAddress& bound) {
  const auto text = bound.to_string();
  const auto told = net::parse_ip(options.address.value_or(""), 0);
  const auto ip = [](const std::string& both) { return both.substr(0, both.rfind(':')); };
  return (!options.address || (told && ip(told->to_string()) == ip(text))) &&
         (!options.port || text.ends_with(base::format(":{}", *options.port)));
}

// Sockets of the service manager are held to the same rules as those of our own. Where they are bound is not
// ours to choose, so an option that says otherwise is an error.
base::Result<std::string> listen_inherited(net::Server& server, const Options& options,
                                           const std::vector<int>& inherited,
                                           const std::optional<net::ServerTls>& tls, bool has_token) {
  std::string where;
  bool any_tcp = false;
  bool as_told = !options.address && !options.port;
  for (const int fd : inherited) {
    DS_TRY(const auto address, net::bound_address(fd));
    const bool unix_socket = address.family() == AF_UNIX;
    if (!unix_socket) {
      any_tcp = true;
      DS_CHECK(check_exposure(address, tls.has_value(), has_token));
      as_told = as_told || is_named(options, address);
    }
    DS_CHECK(server.listen_fd(fd, unix_socket ? std::nullopt : tls));
    where += (where.empty() ? "" : ", ") +
             (unix_socket ? std::string("a unix socket") : url_of(address, tls.has_value()));
  }
  where += " (inherited)";
  if (!options.unix_path.empty() || !as_told) {
    return fail(
        Code::invalid_argument,
        base::format("the service manager handed over {}, not what --address, --port or --unix say", where),
        "leave those options out, or change ListenStream= in the socket unit");
  }
  if (tls && !any_tcp) {
    return fail(Code::invalid_argument, "--tls-cert has no meaning for a unix socket",
                "leave --tls-cert and --tls-key out");
  }
  return where;
}

base::Result<std::string> listen(net::Server& server, const Options& options, bool has_token) {
  DS_TRY(const auto tls, read_tls(options));
  const auto inherited = base::inherited_sockets();
  if (!inherited.empty()) {
    return listen_inherited(server, options, inherited, tls, has_token);
  }
  if (!options.unix_path.empty()) {
    DS_CHECK(server.listen_unix(options.unix_path, 0660));
    return "unix:" + options.unix_path;
  }
  const auto ip = options.address.value_or(k_address);
  DS_TRY(auto address, net::parse_ip(ip, options.port.value_or(k_port)));
  DS_CHECK(check_exposure(address, tls.has_value(), has_token));
  DS_TRY(const auto port, server.listen_tcp(ip, options.port.value_or(k_port), tls));
  DS_TRY(address, net::parse_ip(ip, port));
  return url_of(address, tls.has_value());
}

base::Result<> serve(const Options& options) {
  DS_TRY(auto token, read_token(options));
  const bool has_token = !token.empty();
  auth::Webhook webhook(auth::AllowlistCache(options.config, options.policy == "strict"), std::move(token));
  net::Server server([&](const net::Request& request) { return webhook.handle(request); },
                     auth::Webhook::server_options());
  server.stop_on_signals();
  DS_TRY(const auto where, listen(server, options, has_token));
  // A file that cannot be used is no reason not to start: everything is denied, and /health says why.
  if (const auto list = load(options); !list) {
    base::log_warn(base::format("everything is denied: {}", list.error().what()));
  }
  const auto status = base::format("listening on {}, allow-list {}", where, options.config);
  base::log_info(status);
  base::notify_ready(status);
  DS_CHECK(server.run());
  base::notify_stopping();
  base::log_info("stopped");
  return {};
}

int run(const Options& options) {
  base::log_setup("dstack-auth", base::parse_log_level(options.log_level, base::LogLevel::info));
  const auto streams = cli::Streams::standard();
  const bool serving = !options.check && options.explain_file.empty();
  const auto result = options.check ? check(options) : serving ? serve(options) : explain(options);
  if (!result) {
    if (serving) {
      base::notify_failed(result.error());
    }
    return cli::print_error(streams, result.error());
  }
  return cli::k_exit_ok;
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  cli::Command program("dstack-auth", "Decide for the KMS which boots may have keys, by an allow-list file.");
  program.option("--config", options.config, "the allow-list, read anew when it changes", options.config);
  program.option("--address", options.address, "IP address to listen on", k_address);
  program.option("--port", options.port, "TCP port to listen on", std::to_string(k_port));
  program.option("--unix", options.unix_path, "listen on this unix socket instead of TCP");
  program.option("--tls-cert", options.tls_certificate, "PEM certificate chain, to speak https");
  program.option("--tls-key", options.tls_key, "PEM private key of --tls-cert");
  program.option("--token-file", options.token_file, "file with the bearer token that callers must send");
  program.option("--policy", options.policy,
                 "single-operator, or strict: TCB status and advisories count too", options.policy);
  program.option("--log-level", options.log_level, "debug, info, warn or error", options.log_level);
  program.flag("--check", options.check, "check the allow-list, say what it allows, and end");
  program.option("--explain", options.explain_file,
                 "say what would be decided for this BootInfo JSON file, and end");
  program.flag("--kms", options.explain_kms, "with --explain: decide as for a KMS, not for an app");
  for (const char* tcp : {"--address", "--port", "--tls-cert", "--tls-key"}) {
    program.exclude("--unix", tcp);
  }
  program.need("--tls-cert", "--tls-key");
  program.need("--tls-key", "--tls-cert");
  program.choose("--policy", {"single-operator", "strict"});
  program.choose("--log-level", {"debug", "info", "warn", "error"});
  program.exclude("--check", "--explain");
  program.need("--kms", "--explain");
  program.examples(
      "dstack-auth --config /etc/dstack/auth-allowlist.json --port 8001\n"
      "dstack-auth --config /etc/dstack/auth-allowlist.json --check\n"
      "curl -s http://127.0.0.1:8001/health");
  program.action([&] { return run(options); });
  return program.run(argc, argv, cli::Streams::standard());
}
