#include "base/result.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <memory>

using namespace dstack::base;

namespace {

Result<int> half(int n) {
  if (n % 2 != 0) {
    return fail(Code::invalid_argument, "odd", "give an even number");
  }
  return n / 2;
}

Result<int> quarter(int n) {
  DS_TRY(const int first, half(n));
  DS_TRY(const int second, half(first));
  return second;
}

}  // namespace

TEST(Result, TryHandsErrorsUp) {
  EXPECT_EQ(*quarter(8), 2);
  EXPECT_EQ(quarter(6).error().message, "odd");
}

TEST(Error, WrapKeepsCodeAndFixAndChainsCauses) {
  const auto error = half(1).error();
  const auto wrapped = Error(error).wrap("cannot halve").wrap("cannot work");
  EXPECT_EQ(wrapped.what(), "cannot work: cannot halve: odd");
  EXPECT_EQ(wrapped.code, Code::invalid_argument);
  EXPECT_EQ(wrapped.fix, "give an even number");
  EXPECT_EQ(to_string(wrapped.code), "DS1007");
}

TEST(Error, AFullDiskGetsItsOwnCodeAndFix) {
  const auto error = fail_errno(Code::io, "cannot write f", ENOSPC).error();
  EXPECT_EQ(error.code, Code::no_space);
  EXPECT_FALSE(error.fix.empty());
}
