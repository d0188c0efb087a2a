#include "guest/runner.h"

#include "base/bytes.h"
#include "base/format.h"
#include "base/log.h"

namespace dstack::guest {

namespace {
constexpr std::size_t k_tail = 1500;  // bytes of a program's output worth telling the user
}

base::Error program_error(base::Code code, std::string message, const base::Output& output) {
  auto text = base::trim(output.err.empty() ? std::string_view(output.out) : std::string_view(output.err));
  if (text.size() > k_tail) {
    text.remove_prefix(text.size() - k_tail);
    const auto line = text.find('\n');
    text.remove_prefix(line == std::string_view::npos ? 0 : line + 1);
  }
  const auto cause =
      text.empty() ? base::format("exit code {}", output.exit_code) : base::escape_control(text, true);
  return {code, std::move(message), cause, {}};
}

}  // namespace dstack::guest
