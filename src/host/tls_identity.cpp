#include "host/tls_identity.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <algorithm>

#include "base/fd.h"
#include "base/format.h"
#include "base/fs.h"
#include "crypto/hash.h"
#include "crypto/x509.h"

namespace dstack::host {

using base::Code;
using base::fail;
using base::Result;

namespace {

constexpr std::size_t k_max_pem = 64 * 1024;
constexpr std::string_view k_scheme = "sha256:";

// The form in which certificates name it; "" for text that is no address.
std::string canonical(const std::string& ip) {
  char text[INET6_ADDRSTRLEN] = {};
  unsigned char address[sizeof(in6_addr)] = {};
  for (const int family : {AF_INET, AF_INET6}) {
    if (::inet_pton(family, ip.c_str(), address) == 1) {
      return ::inet_ntop(family, address, text, sizeof text) == nullptr ? "" : text;
    }
  }
  return {};
}

// The kernel lets a socket have it.
bool is_own_address(const std::string& ip) {
  sockaddr_in6 v6 = {};
  sockaddr_in v4 = {};
  v6.sin6_family = AF_INET6;
  v4.sin_family = AF_INET;
  const bool is_v4 = ::inet_pton(AF_INET, ip.c_str(), &v4.sin_addr) == 1;
  if (!is_v4 && ::inet_pton(AF_INET6, ip.c_str(), &v6.sin6_addr) != 1) {
    return false;
  }
  const base::Fd fd(::socket(is_v4 ? AF_INET : AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const auto* address =
      is_v4 ? reinterpret_cast<const sockaddr*>(&v4) : reinterpret_cast<const sockaddr*>(&v6);
  return fd && ::bind(fd.get(), address, is_v4 ? sizeof v4 : sizeof v6) == 0;
}

bool is_private(const std::filesystem::path& path) {
  struct stat info = {};
  return ::lstat(path.c_str(), &info) == 0 && S_ISREG(info.st_mode) && (info.st_mode & 07777) == 0600;
}

bool fits(const std::filesystem::path& key_file, const std::filesystem::path& certificate_file,
          const std::string& ip) {
  const auto key_pem = base::read_file(key_file, k_max_pem);
  const auto certificate_pem = base::read_file(certificate_file, k_max_pem);
  if (!key_pem || !certificate_pem || !is_private(key_file)) {
    return false;
  }
  const auto key = crypto::P256Key::from_pkcs8_pem(*key_pem);
  const auto certificate = crypto::Certificate::from_pem(*certificate_pem);
  if (!key || !certificate || certificate->spki() != key->spki()) {
    return false;
  }
  const auto names = certificate->alt_names();
  return std::ranges::any_of(names, [&](const std::string& name) { return canonical(name) == ip; });
}

}  // namespace

std::string certificate_fingerprint(base::ByteView der) {
  return std::string(k_scheme) + base::to_hex(crypto::sha256(der));
}

Result<std::string> parse_fingerprint(std::string_view text) {
  auto digits = base::trim(text);
  if (digits.size() >= k_scheme.size() && (digits.starts_with(k_scheme) || digits.starts_with("SHA256:"))) {
    digits.remove_prefix(k_scheme.size());
  }
  std::string plain(digits);
  std::erase(plain, ':');
  const auto bytes = base::from_hex(plain);
  if (!bytes || bytes->size() != 32) {
    return fail(Code::invalid_argument, base::format("'{}' is not a certificate's fingerprint", text),
                "write sha256: and 64 hex digits, as \"dstackup status\" prints it on the VMM's host");
  }
  return std::string(k_scheme) + base::to_hex(*bytes);
}

bool has_tls_identity(const std::filesystem::path& key_file, const std::filesystem::path& certificate_file,
                      const std::string& ip) {
  return fits(key_file, certificate_file, canonical(ip));
}

Result<bool> ensure_tls_identity(const std::filesystem::path& key_file,
                                 const std::filesystem::path& certificate_file, const std::string& ip) {
  const auto address = canonical(ip);
  if (fits(key_file, certificate_file, address)) {
    return false;
  }
  crypto::CertificateProfile profile;
  profile.organization = "dstack";
  profile.common_name = "dstack-vmm";
  profile.alt_names = {address};
  profile.server_auth = true;
  DS_TRY(const auto key, crypto::P256Key::generate());
  DS_TRY(const auto certificate, crypto::self_sign(profile, key));
  const auto pem = key.pkcs8_pem();
  DS_CHECK(base::write_file_atomic(key_file, pem.text(), {.mode = 0600, .force_mode = true}));
  DS_CHECK(base::write_file_atomic(certificate_file, certificate.pem(), {.mode = 0644, .force_mode = true}));
  return true;
}

Result<std::string> read_fingerprint(const std::filesystem::path& certificate_file) {
  DS_TRY(const auto pem, base::read_file(certificate_file, k_max_pem));
  auto certificate = crypto::Certificate::from_pem(pem);
  if (!certificate) {
    return fail(std::move(certificate).error(), certificate_file.string() + " is not a certificate");
  }
  return certificate_fingerprint(certificate->der());
}

Result<> check_exposable(const std::string& ip) {
  const auto address = canonical(ip);
  if (address.empty()) {
    return fail(Code::invalid_argument, base::format("--expose '{}' is not an IP address", ip),
                "name an address of this host, or none to take the exposure back");
  }
  if (address == "0.0.0.0" || address == "::") {
    return fail(Code::invalid_argument,
                base::format("--expose {} would be every address, which no certificate can name", ip),
                "name the one address that clients use");
  }
  if (address == "127.0.0.1" || address == "::1") {
    return fail(Code::invalid_argument, base::format("--expose {} is this host's own loopback", ip),
                "the API is there already; leave --expose out");
  }
  if (!is_own_address(address)) {
    return fail(Code::invalid_argument, base::format("--expose {}: this host has no such address", ip),
                "see \"ip address\"");
  }
  return {};
}

}  // namespace dstack::host
