// GET with redirects, over https with the system's trust store, through the environment's proxy. For what
// comes from outside: releases and their files.
#pragma once

#include <chrono>
#include <cstdlib>
#include <string>

#include "base/result.h"
#include "net/client.h"
#include "net/url.h"

namespace dstack::net {

struct FetchOptions {
  std::string ca_pem;  // trust anchors for https; empty = system_ca_pem()
  std::chrono::milliseconds connect_timeout{15'000};
  std::chrono::milliseconds timeout{30'000};  // for a small body in all; for a received one: silence
  unsigned max_redirects = 8;
  std::size_t max_body = 1024 * 1024;  // of a body that is not received part by part
  Environment environment = [](const char* name) { return std::getenv(name); };  // names the proxy
};

struct Fetched {
  Response response;
  Url url;  // after redirects
};

// Follows redirects; one from https to http, and more than max_redirects, are Code::download. Any other
// status is a success. With a receiver, it gets the last answer's body.
base::Result<Fetched> fetch(const Url& url, const Headers& headers, const FetchOptions& options,
                            const BodyReceiver* receiver = nullptr);

// The certificates that this system trusts (PEM). Code::tls when there are none.
base::Result<std::string> system_ca_pem();

}  // namespace dstack::net
