// Errors as values. Every fallible function that crosses a module returns Result<T>; exceptions stay inside.
#pragma once

#include <expected>
#include <string>
#include <string_view>
#include <utility>

namespace dstack::base {

// Stable error codes, "DS1601" style; the list with meanings is base/codes.def and docs/errors.md.
enum class Code : int {
#define DSTACK_CODE(name, number, meaning) name = number,
#include "base/codes.def"
#undef DSTACK_CODE
};

// "DS1601".
std::string to_string(Code code);
// The one-line meaning in base/codes.def.
std::string_view meaning(Code code);

// What went wrong, why, and what to do about it. `cause` is the chain of lower errors joined by ": ";
// `fix` is one imperative sentence or empty.
struct Error {
  Code code = Code::internal;
  std::string message;
  std::string cause;
  std::string fix;

  // "message: cause".
  std::string what() const;
  // Puts `context` in front: message becomes `context`, the old what() becomes the cause. Code and fix stay.
  Error wrap(std::string context) &&;
};

template <class T = void>
using Result = std::expected<T, Error>;

// return fail(Code::bad_port, "port 0 is not usable", /*fix=*/"choose 1 to 65535");
[[nodiscard]] inline std::unexpected<Error> fail(Code code, std::string message, std::string fix = {}) {
  return std::unexpected(Error{code, std::move(message), {}, std::move(fix)});
}
// Like fail() with errno's text as the cause.
[[nodiscard]] std::unexpected<Error> fail_errno(Code code, std::string message, int error_number,
                                                std::string fix = {});
[[nodiscard]] inline std::unexpected<Error> fail(Error error) {
  return std::unexpected(std::move(error));
}
// Re-throws a lower error with context in front.
[[nodiscard]] inline std::unexpected<Error> fail(Error error, std::string context) {
  return std::unexpected(std::move(error).wrap(std::move(context)));
}

}  // namespace dstack::base

#define DS_CONCAT_INNER(a, b) a##b
#define DS_CONCAT(a, b) DS_CONCAT_INNER(a, b)

// DS_TRY(auto text, read_file(path)); assigns the value or returns the error.
#define DS_TRY(target, expression) DS_TRY_IMPL(DS_CONCAT(ds_try_, __LINE__), target, expression)
#define DS_TRY_IMPL(tmp, target, expression)        \
  auto tmp = (expression);                          \
  if (!tmp) {                                       \
    return std::unexpected(std::move(tmp).error()); \
  }                                                 \
  target = std::move(*tmp)

// DS_CHECK(write_file(...)); for Result<void> (or to drop the value): returns the error if there is one.
#define DS_CHECK(expression)                                      \
  do {                                                            \
    if (auto ds_check_result = (expression); !ds_check_result) {  \
      return std::unexpected(std::move(ds_check_result).error()); \
    }                                                             \
  } while (false)
