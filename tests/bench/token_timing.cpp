// Does comparing a token tell how much of it was right? Times the comparison that every bearer token goes
// through, on tokens that differ in their first byte and in their last one, in random order, and prints
// Welch's t of the two samples: beyond 4.5 either way would be a leak. The comparison that stops at the first
// difference is measured beside it, to show that this would see one.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "base/bytes.h"

using namespace dstack;

namespace {

constexpr int k_batch = 64;
constexpr int k_samples = 200'000;

// Mean and variance by Welford's method.
struct Sample {
  double mean = 0, squares = 0, count = 0;
  void add(double value) {
    count += 1;
    const double from_mean = value - mean;
    mean += from_mean / count;
    squares += from_mean * (value - mean);
  }
  double variance() const { return squares / (count - 1); }
};

bool equal_until_a_difference(const std::string& a, const std::string& b) {
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (a[i] != b[i]) {
      return false;
    }
  }
  return true;
}

template <class Compare>
double welch(Compare compare) {
  const std::string right(1024, 'k');
  std::string first = right, last = right;
  first.front() = 'x';
  last.back() = 'x';
  std::mt19937 random(7);
  std::vector<std::pair<bool, double>> times;
  times.reserve(k_samples);
  volatile bool sink = false;
  for (int i = 0; i < k_samples; ++i) {
    const bool late = (random() & 1U) != 0;
    const std::string& given = late ? last : first;
    const auto start = std::chrono::steady_clock::now();
    for (int k = 0; k < k_batch; ++k) {
      sink = compare(given, right);
    }
    times.emplace_back(
        late, std::chrono::duration<double, std::nano>(std::chrono::steady_clock::now() - start).count());
  }
  (void)sink;
  // Interrupts and other processes only ever make a measurement longer.
  std::vector<double> all;
  for (const auto& time : times) {
    all.push_back(time.second);
  }
  const auto most = all.begin() + k_samples * 9 / 10;
  std::nth_element(all.begin(), most, all.end());
  const double limit = 2 * *most;
  Sample a, b;
  for (const auto& [late, time] : times) {
    if (time < limit) {
      (late ? b : a).add(time);
    }
  }
  return (b.mean - a.mean) / std::sqrt(a.variance() / a.count + b.variance() / b.count);
}

}  // namespace

int main() {
  const double ours = welch([](const std::string& a, const std::string& b) {
    return base::equal_constant_time(base::as_bytes(a), base::as_bytes(b));
  });
  const double naive = welch(equal_until_a_difference);
  std::printf("t of token comparison, first byte wrong against last: %8.1f   wanted within 4.5\n", ours);
  std::printf("t of a comparison that stops early, as a control:     %8.1f   far beyond\n", naive);
  return 0;
}
