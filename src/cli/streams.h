// Where a command writes, injected so that tests capture it. Results go to `out`, everything for people to
// `err`.
#pragma once

#include <iosfwd>
#include <string>
#include <string_view>

#include "base/result.h"

namespace dstack::cli {

struct Streams {
  std::ostream& out;
  std::ostream& err;
  bool out_is_terminal = false;
  bool err_is_terminal = false;
  bool color = false;  // never with NO_COLOR set, TERM=dumb, or err not a terminal

  // std::cout and std::cerr.
  static Streams standard();
};

// Exit codes of every program.
inline constexpr int k_exit_ok = 0;
inline constexpr int k_exit_failure = 1;
inline constexpr int k_exit_usage = 2;

// "error[DS1501]: message: cause" and "  fix: ...", on `err`. With `json` one line
// {"error":{"code","message", "cause","fix"}} instead, also on `err`: stdout carries results only. Control
// characters are escaped. Returns k_exit_usage for Code::usage, else k_exit_failure, so that a verb can end
// with `return print_error(...)`.
int print_error(const Streams& streams, const base::Error& error, bool json = false);
// "warning: text" on `err`.
void print_warning(const Streams& streams, std::string_view text);

}  // namespace dstack::cli
