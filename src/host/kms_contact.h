// Talking to the installation's KMS from the host, and knowing that it is the right one.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

#include "attest/verifier.h"
#include "base/result.h"
#include "host/layout.h"
#include "host/state.h"

namespace dstack::host {

struct KmsExpectation {
  std::uint16_t port = 0;  // on 127.0.0.1
  attest::TrustAnchors anchors;
  std::string compose_hash;   // of the KMS's app-compose, hex; "" = not checked
  std::string os_image_hash;  // hex; "" = not checked
  std::string pinned_ca_pem;  // root CA kept at the first contact; "" = first contact
  std::chrono::milliseconds connect_timeout{2'000};
  std::chrono::milliseconds timeout{10'000};
};

// Whom the KMS's evidence may chain to on this installation's platform.
base::Result<attest::TrustAnchors> trust_anchors(const Layout& layout, const std::string& platform);
// What the KMS of an installation must prove once its root is kept, within two seconds. Reads the root
// certificates.
base::Result<KmsExpectation> kms_expectation(const Layout& layout, const InstallState& state);

struct KmsContact {
  std::string ca_pem;     // root CA
  std::string ca_sha256;  // of its DER, lower hex
  attest::Verdict verdict;
};

// GetMeta over TLS. The server's certificate must carry evidence that verifies against the anchors, the usage
// kms:rpc, the name 10.0.2.2, the expected code and image; and it must be issued by the CA that the answer
// names, which must be the pinned one. Code::kms_not_ready when nothing answers yet (or without a CA),
// Code::kms_identity when the wrong one answers.
base::Result<KmsContact> contact_kms(const KmsExpectation& expected);

// The checks on a leaf certificate that need no answer; for contact_kms() and tests. `now` is unix seconds.
base::Result<attest::Verdict> check_kms_leaf(base::ByteView leaf_der, const KmsExpectation& expected,
                                             std::int64_t now);

}  // namespace dstack::host
