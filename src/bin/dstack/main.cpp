#include "bin/dstack/verbs.h"

int main(int argc, char** argv) {
  const auto streams = dstack::cli::Streams::standard();
  dstack::dstack_cli::Globals globals;
  dstack::cli::Command program("dstack",
                               "Deploy docker compose files into confidential VMs, and look after them.");
  dstack::dstack_cli::declare(program, globals, streams);
  return program.run(argc, argv, streams);
}
