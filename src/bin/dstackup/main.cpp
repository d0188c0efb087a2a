// dstackup: sets a host up, says what is wrong with it, takes it down.
#include <string_view>

#include "cli/command.h"
#include "cli/streams.h"
#include "verbs.h"

int main(int argc, char** argv) {
  using namespace dstack;
  const auto streams = cli::Streams::standard();
  if (argc > 1 && std::string_view(argv[1]) == "supervise") {
    return dstackup::run_supervise(argc - 1, argv + 1, streams);
  }
  cli::Command program("dstackup", "set up, inspect and take down a dstack host");
  dstackup::declare(program, streams);
  return program.run(argc, argv, streams);
}
