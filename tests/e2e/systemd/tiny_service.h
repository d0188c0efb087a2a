// The services that systemd_test runs: the test program itself, started as `systemd_test --service MODE
// FILE`.
#pragma once

#include <string>
#include <vector>

namespace dstack::e2e {

// Modes: ready; stubborn (ready; ignores SIGTERM and leaves a child in a session of its own that does, too);
// fails (says why and exits with 3); silent (never ready); crashes (exits with 7 right after being ready);
// plain (no notification: for transient units); launches (starts a transient unit and checks that it sees
// it); reads (its status is what FILE holds, looked at ten times a second). All but "reads" write what they
// were started with to FILE.
int tiny_service(const std::vector<std::string>& arguments);

}  // namespace dstack::e2e
