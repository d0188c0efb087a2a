// What the actions of several verbs begin with.
#pragma once

#include <memory>
#include <string_view>
#include <utility>

#include "base/result.h"
#include "cli/command.h"
#include "cli/streams.h"

namespace dstack::dstackup {

// Code::not_root, naming the verb, for whoever is not root.
base::Result<> need_root(std::string_view verb);

// Gives the verb --prefix and runs `run` with its options; an error is printed and becomes the exit code.
template <class Options>
void set_action(cli::Command& verb, std::shared_ptr<Options> options, const cli::Streams& streams,
                base::Result<int> (*run)(const Options&, const cli::Streams&)) {
  verb.option("--prefix", options->prefix, "use the installation below this directory");
  verb.action([options = std::move(options), &streams, run] {
    const auto code = run(*options, streams);
    return code ? *code : cli::print_error(streams, code.error(), options->json);
  });
}

}  // namespace dstack::dstackup
