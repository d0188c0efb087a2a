// The certificate under which the VMM's API is served on a network address (install --expose).
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

#include "base/bytes.h"
#include "base/result.h"

namespace dstack::host {

// "sha256:" and 64 lower-case hex digits, over the DER.
std::string certificate_fingerprint(base::ByteView der);
// The same from what people write: with or without "sha256:", either case, with the colons of openssl.
// Code::invalid_argument.
base::Result<std::string> parse_fingerprint(std::string_view text);

// A key (0600) and a self-signed certificate that names `ip`. Kept when they are there and fit together and
// to the address; else both are made anew. True when they were.
base::Result<bool> ensure_tls_identity(const std::filesystem::path& key_file,
                                       const std::filesystem::path& certificate_file, const std::string& ip);
// Would ensure_tls_identity() leave everything as it is?
bool has_tls_identity(const std::filesystem::path& key_file, const std::filesystem::path& certificate_file,
                      const std::string& ip);
// Of the first certificate in a PEM file.
base::Result<std::string> read_fingerprint(const std::filesystem::path& certificate_file);

// An address for --expose: an IP address that this host has and that is not a wildcard or the address of the
// local API. Code::invalid_argument.
base::Result<> check_exposable(const std::string& ip);

}  // namespace dstack::host
