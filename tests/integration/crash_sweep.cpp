#include "integration/crash_sweep.h"

#include <gtest/gtest.h>

#include <iostream>

#include "base/format.h"

namespace dstack::test {

std::string where(const SystemCall& call) {
  return base::format("{} #{}: {}", call.name, call.ordinal, call.line);
}

std::vector<SystemCall> choose_places(const std::vector<SystemCall>& calls, std::size_t k) {
  if (full_sweep()) {
    return calls;
  }
  std::vector<SystemCall> out;
  bool recorded = false;
  std::size_t number = 0;
  for (const auto& call : calls) {
    const bool step = recorded && !(call.name == "write" && call.line.find("/journal>") != std::string::npos);
    recorded = call.name == "fdatasync" && call.line.find("/journal>") != std::string::npos;
    if (step || (changes_something(call) && number++ % k == 0)) {
      out.push_back(call);
    }
  }
  return out;
}

void Tally::show(const char* what) const {
  std::cout << what << ": " << hit << " of " << tried << " places hit\n";
}

void Tally::expect_hits(const char* what, int at_least) const {
  show(what);
  EXPECT_GE(tried, at_least) << what;
  EXPECT_GE(hit * 10, tried * 9) << what << ": the sweep does not hit where it means to";
}

}  // namespace dstack::test
