#include "base/result.h"

#include <cerrno>
#include <cstring>

namespace dstack::base {

std::string to_string(Code code) {
  return "DS" + std::to_string(static_cast<int>(code));
}

std::string_view meaning(Code code) {
  switch (code) {
#define DSTACK_CODE(name, number, text) \
  case Code::name:                      \
    return text;
#include "base/codes.def"
#undef DSTACK_CODE
  }
  return "unknown";
}

std::string Error::what() const {
  return cause.empty() ? message : message + ": " + cause;
}

Error Error::wrap(std::string context) && {
  cause = what();
  message = std::move(context);
  return std::move(*this);
}

std::unexpected<Error> fail_errno(Code code, std::string message, int error_number, std::string fix) {
  // The kernel's reason decides the code where it is more telling than the caller's guess.
  if (code == Code::io) {
    switch (error_number) {
      case ENOENT:
        code = Code::not_found;
        break;
      case EACCES:
      case EPERM:
        code = Code::permission;
        break;
      case ENOSPC:
      case EDQUOT:
        code = Code::no_space;
        if (fix.empty()) {
          fix = "free some disk space and run the command again";
        }
        break;
      default:
        break;
    }
  }
  return std::unexpected(Error{code, std::move(message), std::strerror(error_number), std::move(fix)});
}

}  // namespace dstack::base
