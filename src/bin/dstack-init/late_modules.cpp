#include "late_modules.h"

#include <signal.h>
#include <unistd.h>

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
  (void)insert_modules(k_modules, /*all_needed=*/false);
  ::_exit(0);
}

}  // namespace dstack::init
