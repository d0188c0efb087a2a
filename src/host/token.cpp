#include "host/token.h"

#include <algorithm>

#include "base/bytes.h"
#include "base/format.h"
#include "base/fs.h"

namespace dstack::host {

using base::Code;
using base::Result;

namespace {

constexpr std::size_t k_max_token = 4096;

// RFC 6750's b64token and what else is of use in one; no quotes, which are left over from an editor.
bool is_token_character(char c) {
  return c > 0x20 && c < 0x7f && c != '"' && c != '\'' && c != '\\' && c != ',';
}

}  // namespace

Result<std::string> read_token(const std::filesystem::path& path) {
  DS_TRY(const auto text, base::read_file(path, k_max_token));
  const auto token = base::trim(text);
  if (token.empty() || !std::ranges::all_of(token, is_token_character)) {
    return base::fail(Code::parse,
                      base::format("{} {}", path.string(),
                                   token.empty() ? "is empty"
                                                 : "holds white space, quotes or other characters that no "
                                                   "token has"),
                      "restore its one line, or remove the file and run 'dstackup install', which makes a "
                      "new one");
  }
  return std::string(token);
}

}  // namespace dstack::host
