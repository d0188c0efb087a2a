#include "late_modules.h"

#include <signal.h>
#include <unistd.h>

#include <cstdio>

#include "root.h"

namespace dstack::init {

namespace {

constexpr const char* k_modules = "/usr/lib/dstack/modules/list.late";

}  // namespace

void insert_late_modules() {
  if (::fork() != 0) {
    return;
  }
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  if (const auto inserted = insert_modules(k_modules, /*all_needed=*/false); !inserted) {
    std::fprintf(stderr, "dstack-init: %s\n", inserted.error().what().c_str());
  }
  ::_exit(0);
}

}  // namespace dstack::init
