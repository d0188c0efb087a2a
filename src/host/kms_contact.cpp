#include "host/kms_contact.h"

#include <algorithm>
#include <array>
#include <ctime>
#include <optional>

#include "attest/ra_tls.h"
#include "base/bytes.h"
#include "base/format.h"
#include "base/fs.h"
#include "crypto/hash.h"
#include "crypto/x509.h"
#include "host/render.h"
#include "net/client.h"
#include "proto/kms_rpc.pb.h"
#include "proto/prpc.pb.h"
#include "rpc/client.h"

namespace dstack::host {

using base::Code;
using base::Result;

namespace {

constexpr const char* k_wrong_kms_fix =
    "another program may hold the KMS's port; if the KMS was replaced on purpose, run 'dstackup destroy "
    "--purge' and "
    "install again (apps lose their keys)";

std::unexpected<base::Error> wrong_kms(std::string message, std::string cause = {}) {
  return base::fail(base::Error{Code::kms_identity, std::move(message), std::move(cause), k_wrong_kms_fix});
}

Result<> check_issuer(const crypto::Certificate& leaf, std::string_view ca_pem, std::int64_t now) {
  DS_TRY(const auto ca, crypto::Certificate::from_pem(ca_pem));
  const std::array chain = {leaf};
  const std::array anchors = {ca};
  return crypto::verify_chain(chain, anchors, now);
}

}  // namespace

Result<attest::TrustAnchors> trust_anchors(const Layout& layout, const std::string& platform) {
  if (platform != "simulated") {
    return attest::TrustAnchors();
  }
  DS_TRY(const auto root, base::read_file(layout.simulated_root()));
  return attest::TrustAnchors::insecure_simulated(root);
}

Result<KmsExpectation> kms_expectation(const Layout& layout, const InstallState& state) {
  KmsExpectation expected;
  expected.port = state.kms_port;
  expected.connect_timeout = expected.timeout = std::chrono::seconds(2);
  DS_TRY(expected.anchors, trust_anchors(layout, state.platform));
  DS_TRY(expected.pinned_ca_pem, base::read_file(state.kms_ca_cert));
  return expected;
}

Result<attest::Verdict> check_kms_leaf(base::ByteView leaf_der, const KmsExpectation& expected,
                                       std::int64_t now) {
  DS_TRY(const auto leaf, crypto::Certificate::from_der(leaf_der));
  const auto names = leaf.alt_names();
  if (std::ranges::find(names, k_host_from_guest) == names.end()) {
    return wrong_kms(base::format("the KMS's certificate is not for {}", k_host_from_guest));
  }
  if (!expected.pinned_ca_pem.empty()) {
    if (auto issued = check_issuer(leaf, expected.pinned_ca_pem, now); !issued) {
      return wrong_kms("the KMS's certificate does not chain to the root kept at install",
                       issued.error().what());
    }
  }
  auto verified = attest::verify_kms_certificate(leaf_der, expected.anchors, now);
  if (!verified) {
    return wrong_kms("the evidence in the KMS's certificate does not verify", verified.error().what());
  }
  const auto& verdict = **verified;
  if (!expected.compose_hash.empty() &&
      base::to_hex(verdict.identity.compose_hash) != expected.compose_hash) {
    return wrong_kms(base::format("the KMS runs other code: its evidence says compose hash {}, expected {}",
                                  base::to_hex(verdict.identity.compose_hash), expected.compose_hash));
  }
  if (!expected.os_image_hash.empty() &&
      base::to_hex(verdict.identity.os_image_hash) != expected.os_image_hash) {
    return wrong_kms(base::format("the KMS runs on another guest image: its evidence says {}, expected {}",
                                  base::to_hex(verdict.identity.os_image_hash), expected.os_image_hash));
  }
  return verdict;
}

Result<KmsContact> contact_kms(const KmsExpectation& expected) {
  const auto now = static_cast<std::int64_t>(std::time(nullptr));
  std::optional<Result<attest::Verdict>> checked;
  base::Bytes leaf_der;
  net::ClientOptions options;
  options.connect_timeout = expected.connect_timeout;
  options.timeout = expected.timeout;
  options.max_body = 1024 * 1024;
  // The chain is checked in check_kms_leaf() and below: the certificate names the address that guests use,
  // and at the first contact the CA is only known from the answer.
  options.tls.insecure = true;
  options.tls.verify_leaf = [&](base::ByteView leaf) -> Result<> {
    leaf_der = base::to_bytes(leaf);
    checked = check_kms_leaf(leaf, expected, now);
    if (!*checked) {
      return base::fail(checked->error());
    }
    return {};
  };
  net::Endpoint endpoint;
  endpoint.kind = net::Endpoint::Kind::tls;
  endpoint.host = "127.0.0.1";
  endpoint.port = expected.port;
  const rpc::Client client(net::Client(endpoint, options), "/prpc");
  prpc::Empty nothing;
  kms::GetMetaResponse meta;
  auto answered = client.call("GetMeta", nothing, meta);
  if (checked && !*checked) {
    return base::fail(checked->error());
  }
  if (!answered || !checked) {
    return base::fail(base::Error{Code::kms_not_ready,
                                  base::format("the KMS does not answer on port {}", expected.port),
                                  answered ? "" : answered.error().what(),
                                  {}});
  }
  if (meta.ca_cert().empty()) {
    return base::fail(Code::kms_not_ready, "the KMS has no root certificate yet");
  }
  DS_TRY(const auto leaf, crypto::Certificate::from_der(leaf_der));
  if (auto issued = check_issuer(leaf, meta.ca_cert(), now); !issued) {
    return wrong_kms("the KMS's certificate does not chain to the root that it names", issued.error().what());
  }
  DS_TRY(const auto ca, crypto::Certificate::from_pem(meta.ca_cert()));
  if (!expected.pinned_ca_pem.empty()) {
    DS_TRY(const auto pinned, crypto::Certificate::from_pem(expected.pinned_ca_pem));
    // Compared by key: a root that is renewed near its end keeps its key.
    if (pinned.spki() != ca.spki()) {
      return wrong_kms("the KMS names another root certificate than the one kept at install");
    }
  }
  return KmsContact{ca.pem(), base::to_hex(crypto::sha256(ca.der())), **checked};
}

}  // namespace dstack::host
