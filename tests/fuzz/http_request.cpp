// The request reader. One stream of bytes must be read as the same requests however it is cut into pieces.
#include <algorithm>
#include <string>
#include <vector>

#include "fuzz.h"
#include "net/message.h"

using namespace dstack;

namespace {

struct Reading {
  std::vector<std::string> requests;
  int status = 0;
  bool operator==(const Reading&) const = default;
};

Reading read(std::string_view stream, std::size_t piece) {
  net::RequestParser parser({.max_header = 4096, .max_body = 4096});
  Reading out;
  std::string pending;
  while (true) {
    const std::size_t consumed = parser.feed(pending);
    FUZZ_EXPECT(consumed <= pending.size());
    pending.erase(0, consumed);
    if (parser.state() == net::ParseState::failed) {
      FUZZ_EXPECT(parser.error_status() >= 400 && parser.error_status() < 600);
      out.status = parser.error_status();
      return out;
    }
    if (parser.state() == net::ParseState::done) {
      const net::Request request = parser.take();
      FUZZ_EXPECT(request.body.size() <= 4096);
      FUZZ_EXPECT(request.path == "*" || request.path.starts_with('/'));
      std::string shown = request.method + ' ' + request.path + '?' + request.query + '\n';
      for (const auto& [name, value] : request.headers.all()) {
        shown += name + ": " + value + '\n';
      }
      out.requests.push_back(shown + '\n' + request.body);
      continue;
    }
    if (stream.empty()) {
      return out;
    }
    const auto next = stream.substr(0, piece);
    pending += next;
    stream.remove_prefix(next.size());
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto stream = fuzz::text(data, std::min<std::size_t>(size, 8192));
  const auto whole = read(stream, 65536);
  const auto pieces = read(stream, 7);
  const auto single = read(stream, 1);
  // Which refusal an unreadable stream gets may depend on how much of it was seen; what was accepted may not.
  FUZZ_EXPECT(whole.requests == pieces.requests);
  FUZZ_EXPECT(whole.requests == single.requests);
  FUZZ_EXPECT(pieces.status == 0 || whole.status != 0);
  return 0;
}
