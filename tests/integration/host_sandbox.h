// A host of one's own for tests that install: namespaces in which /etc, /var, /run, /usr/local, /tmp, the
// processes, the ports and the cgroups are nobody else's, so that "nothing is left" can be said of all of
// them.
#pragma once

#include <filesystem>
#include <functional>
#include <set>
#include <string>
#include <vector>

#include "base/process.h"

namespace dstack::test {

// Runs `tests` in a sandbox of its own and returns its exit code. Where the machine cannot make one, it runs
// outside and sandbox_problem() says why.
int run_in_sandbox(const std::filesystem::path& programs, const std::function<int()>& tests);
// The same on a machine that is all ours already and that systemd runs (tests/e2e/systemd/boot.sh).
int run_in_machine(const std::filesystem::path& programs, const std::function<int()>& tests);
// Empty inside a sandbox.
const std::string& sandbox_problem();
// Where the programs are found inside.
std::filesystem::path sandbox_programs();
// Says that it is QEMU and ends: there are no VMs here, and asking the real one what it can do takes seconds.
std::filesystem::path stand_in_qemu();

// Everything that an installation could leave: files (with mode, owner, size and time), processes, listening
// ports, sockets, cgroups and units. `extra` is looked at beside /etc, /var, /run and /usr/local.
std::set<std::string> host_snapshot(const std::vector<std::filesystem::path>& extra = {});
// What `now` has more or less than `before`, one line each; empty when they are equal.
std::string difference(const std::set<std::string>& before, const std::set<std::string>& now);

// SIGKILL to every process of the sandbox but the caller, and waits until they are gone.
void kill_everything();

}  // namespace dstack::test
