// Intel's extension of PCK certificates, as far as it is used here (spec/guest-kms.md section 3.3).
#pragma once

#include "base/bytes.h"
#include "base/result.h"
#include "crypto/x509.h"

namespace dstack::attest {

inline constexpr const char* k_oid_sgx = "1.2.840.113741.1.13.1";

// The platform's id, 16 bytes. Code::evidence_format when the extension or the id in it is missing or
// malformed.
base::Result<base::Bytes> ppid_of(const crypto::Certificate& pck);
// The extension's content with PPID and FMSPC of these values.
base::Bytes make_sgx_extension(base::ByteView ppid, base::ByteView fmspc);

}  // namespace dstack::attest
