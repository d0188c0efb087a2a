// One verb per file: each add_*() declares a verb with its flags, examples and action on the program.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "cli/command.h"
#include "cli/streams.h"

namespace dstack::dstackup {

// Options that may stand before the verb too. Verbs that do not use them refuse them.
struct Globals {
  std::optional<std::string> host;         // status
  std::optional<std::string> release_api;  // install, image pull
};

// All verbs; `streams` must outlive the program.
void declare(cli::Command& program, const cli::Streams& streams);

void add_install(cli::Command& program, const cli::Streams& streams,
                 const std::shared_ptr<const Globals>& globals);
void add_doctor(cli::Command& program, const cli::Streams& streams);
void add_status(cli::Command& program, const cli::Streams& streams,
                const std::shared_ptr<const Globals>& globals);
void add_upgrade(cli::Command& program, const cli::Streams& streams);  // upgrade, rollback
void add_destroy(cli::Command& program, const cli::Streams& streams);
// image pull|build|list|verify|rm
void add_image(cli::Command& program, const cli::Streams& streams,
               const std::shared_ptr<const Globals>& globals);
void add_volume(cli::Command& program, const cli::Streams& streams);  // volume add|list|rm

void add_support(cli::Command& program, const cli::Streams& streams);

// The hidden verb behind completions: names of images and volumes.
void add_complete(cli::Command& program, const cli::Streams& streams);

// `dstackup supervise`: the built-in supervisor's daemon. Not in --help; started by the other verbs.
int run_supervise(int argc, const char* const* argv, const cli::Streams& streams);

}  // namespace dstack::dstackup
