#include "cli/streams.h"

#include <unistd.h>

#include <cstdlib>
#include <iostream>
#include <nlohmann/json.hpp>

#include "base/format.h"
#include "base/log.h"

namespace dstack::cli {
namespace {

bool color_wanted() {
  const char* no_color = std::getenv("NO_COLOR");
  const char* terminal = std::getenv("TERM");
  return (no_color == nullptr || *no_color == '\0') && terminal != nullptr &&
         std::string_view(terminal) != "dumb";
}

std::string paint(const Streams& streams, std::string_view text, const char* code) {
  return streams.color ? base::format("\x1b[{}m{}\x1b[0m", code, text) : std::string(text);
}

}  // namespace

Streams Streams::standard() {
  Streams streams{std::cout, std::cerr};
  streams.out_is_terminal = ::isatty(STDOUT_FILENO) == 1;
  streams.err_is_terminal = ::isatty(STDERR_FILENO) == 1;
  streams.color = streams.err_is_terminal && color_wanted();
  return streams;
}

int print_error(const Streams& streams, const base::Error& error, bool json) {
  if (json) {
    const nlohmann::ordered_json object = {{"error",
                                            {{"code", base::to_string(error.code)},
                                             {"message", error.message},
                                             {"cause", error.cause},
                                             {"fix", error.fix}}}};
    streams.err << object.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) << '\n';
  } else {
    streams.err << paint(streams, base::format("error[{}]", base::to_string(error.code)), "1;31") << ": "
                << base::escape_control(error.what(), true) << '\n';
    if (!error.fix.empty()) {
      streams.err << "  fix: " << base::escape_control(error.fix, true) << '\n';
    }
  }
  streams.err.flush();
  return error.code == base::Code::usage ? k_exit_usage : k_exit_failure;
}

void print_warning(const Streams& streams, std::string_view text) {
  streams.err << paint(streams, "warning", "1;33") << ": " << base::escape_control(text) << std::endl;
}

}  // namespace dstack::cli
