// Shell completions made from a program's description.
#pragma once

#include <string>

#include "cli/command.h"
#include "cli/description.h"
#include "cli/streams.h"

namespace dstack::cli {

// Scripts for the shells to read. What a host's data supplies (Values::dynamic) is never evaluated by them.
std::string bash_completion(const Description& program);
std::string zsh_completion(const Description& program);
std::string fish_completion(const Description& program);

// Adds the verb "completion bash|zsh|fish". To be called last: `program` is described when the verb runs.
void add_completion(Command& program, const Streams& streams);

}  // namespace dstack::cli
