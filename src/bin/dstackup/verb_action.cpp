#include "verb_action.h"

#include <unistd.h>

#include "base/format.h"

namespace dstack::dstackup {

base::Result<> need_root(std::string_view verb) {
  if (::geteuid() == 0) {
    return {};
  }
  return base::fail(base::Code::not_root, base::format("dstackup {} needs root", verb), "run it with sudo");
}

}  // namespace dstack::dstackup
