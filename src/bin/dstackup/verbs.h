// One verb per file. Each add_*() declares a subcommand with its flags and example on the parser, and sets
// `run` when that subcommand was chosen.
#pragma once

#include <functional>

#include "base/result.h"

namespace CLI {
class App;
}

namespace dstack::dstackup {

// The chosen verb; gives the exit code. An error is printed by main() (code, message, fix) and exits 1.
using Run = std::function<base::Result<int>()>;

void add_install(CLI::App& app, Run& run);
void add_status(CLI::App& app, Run& run);
void add_destroy(CLI::App& app, Run& run);
void add_image(CLI::App& app, Run& run);      // image build|list|rm
void add_volume(CLI::App& app, Run& run);     // volume add|list|rm
void add_supervise(CLI::App& app, Run& run);  // hidden: the built-in supervisor's daemon

}  // namespace dstack::dstackup
