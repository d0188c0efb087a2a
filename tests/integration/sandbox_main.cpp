// main() of every test that runs in a sandbox.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "integration/host_sandbox.h"

int main(int argc, char** argv) {
  testing::InitGoogleMock(&argc, argv);
  if (testing::GTEST_FLAG(list_tests)) {
    return RUN_ALL_TESTS();
  }
  return dstack::test::run_in_sandbox(DSTACK_PROGRAMS_DIR, [] { return RUN_ALL_TESTS(); });
}
