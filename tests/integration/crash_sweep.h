// The places of a sweep of install or destroy, and its balance.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "integration/strace_points.h"

namespace dstack::test {

// For SCOPED_TRACE.
std::string where(const SystemCall& call);

// Each call that follows the record of a step in the journal, and every k-th of those that change something;
// all calls in the full sweep.
std::vector<SystemCall> choose_places(const std::vector<SystemCall>& calls, std::size_t k);

struct Tally {
  int tried = 0;
  int hit = 0;
  void show(const char* what) const;
  // Shows it too. Fails when fewer were tried, or some not hit: such a sweep shows nothing.
  void expect_hits(const char* what, int at_least) const;
};

}  // namespace dstack::test
