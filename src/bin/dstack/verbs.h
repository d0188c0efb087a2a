// One verb per file: each add_*() declares a verb with its flags, examples and action on the program.
#pragma once

#include "cli/command.h"
#include "cli/streams.h"
#include "client/access.h"

namespace dstack::dstack_cli {

// The options that every verb has.
struct Globals {
  client::AccessOptions access;
  bool json = false;
};

// All verbs and global options; `globals` and `streams` must outlive the program.
void declare(cli::Command& program, Globals& globals, const cli::Streams& streams);

void add_deploy(cli::Command& program, const Globals& globals, const cli::Streams& streams);
void add_apps(cli::Command& program, const Globals& globals, const cli::Streams& streams);
void add_logs(cli::Command& program, const Globals& globals, const cli::Streams& streams);
void add_info(cli::Command& program, const Globals& globals, const cli::Streams& streams);
void add_remove(cli::Command& program, const Globals& globals, const cli::Streams& streams);

// The hidden verb behind completions: names of apps.
void add_complete(cli::Command& program, const Globals& globals, const cli::Streams& streams);

}  // namespace dstack::dstack_cli
