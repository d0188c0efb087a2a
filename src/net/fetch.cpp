#include "net/fetch.h"

#include "base/format.h"
#include "base/fs.h"
#include "base/log.h"

namespace dstack::net {

using base::Code;

namespace {

constexpr std::size_t k_max_ca_file = 8 * 1024 * 1024;

bool is_redirect(int status) {
  return status == 301 || status == 302 || status == 303 || status == 307 || status == 308;
}

}  // namespace

base::Result<std::string> system_ca_pem() {
  for (const char* path :
       {"/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"}) {
    if (auto text = base::read_file(path, k_max_ca_file); text && !text->empty()) {
      return text;
    }
  }
  return base::fail(Code::tls, "this system has no list of trusted certificates, so https cannot be checked",
                    "apt-get install ca-certificates");
}

base::Result<Fetched> fetch(const Url& url, const Headers& headers, const FetchOptions& options,
                            const BodyReceiver* receiver) {
  Url at = url;
  for (unsigned hop = 0; hop <= options.max_redirects; ++hop) {
    ClientOptions client_options;
    client_options.connect_timeout = options.connect_timeout;
    client_options.timeout = options.timeout;
    client_options.max_body = options.max_body;
    if (at.https) {
      client_options.tls.ca_pem = options.ca_pem;
      if (options.ca_pem.empty()) {
        DS_TRY(client_options.tls.ca_pem, system_ca_pem());
      }
    }
    DS_TRY(client_options.proxy, proxy_for(at, options.environment));
    Request request;
    request.path = at.path;
    request.query = at.query;
    request.headers = headers;
    const Client client(at.endpoint(), client_options);
    BodyReceiver last;
    if (receiver != nullptr) {
      last.on_head = [&](const Response& head) -> base::Result<bool> {
        return is_redirect(head.status) ? base::Result<bool>(false) : receiver->on_head(head);
      };
      last.on_part = receiver->on_part;
    }
    auto response = receiver == nullptr ? client.send(request) : client.receive(request, last);
    if (!response) {
      return base::fail(std::move(response).error());
    }
    if (!is_redirect(response->status)) {
      return Fetched{std::move(*response), at};
    }
    const auto location = response->headers.get("Location");
    if (!location) {
      return base::fail(Code::download, base::format("{} redirects to nowhere", at.to_string()));
    }
    auto next = at.resolve(*location);
    if (!next) {
      return base::fail(base::Error{Code::download,
                                    base::format("{} redirects to what is not a web address", at.to_string()),
                                    next.error().what(),
                                    {}});
    }
    if (at.https && !next->https) {
      return base::fail(Code::download,
                        base::format("{} redirects from https to unencrypted http ({})", at.to_string(),
                                     base::escape_control(next->to_string())),
                        "somebody may be in between; if this is a mirror of yours, let it serve https");
    }
    at = std::move(*next);
  }
  return base::fail(Code::download,
                    base::format("{} redirects more than {} times", url.to_string(), options.max_redirects),
                    "check the address");
}

}  // namespace dstack::net
