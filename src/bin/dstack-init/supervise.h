// PID 1 after the root is switched: one child, its orphans, and the end of the machine.
#pragma once

#include "base/result.h"

namespace dstack::init {

enum class Ending { power_off, reboot };

// Blocks the signals that supervise() waits for. Before the first child.
void block_signals();

// Starts `dstack-guest boot`, reaps until it ends or a signal asks for the end (SIGTERM, SIGUSR2: power off;
// SIGINT: reboot), then ends every process.
base::Result<Ending> supervise();

// Syncs, unmounts and ends the machine. Does not return.
[[noreturn]] void end_machine(Ending ending);

}  // namespace dstack::init
