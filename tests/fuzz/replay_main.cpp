// Feeds every seed of one target to it, and those of the recorded fixtures that are laid out alike
// ($DSTACK_FIXTURES/fuzz/<name>/). Each input also goes in cut short and with bytes changed.
#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <vector>

#include "fuzz.h"

namespace fs = std::filesystem;

namespace {

std::vector<fs::path> files_in(const fs::path& directory) {
  std::vector<fs::path> out;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(directory, error)) {
    if (entry.is_regular_file()) {
      out.push_back(entry.path());
    }
  }
  std::ranges::sort(out);
  return out;
}

void feed(const std::vector<std::uint8_t>& input) {
  // A copy of exactly this size, so that a sanitizer sees a read behind its end.
  const std::vector<std::uint8_t> exact(input);
  LLVMFuzzerTestOneInput(exact.data(), exact.size());
}

void feed_with_damage(const std::vector<std::uint8_t>& input) {
  feed(input);
  const std::size_t step = std::max<std::size_t>(1, input.size() / 64);
  for (std::size_t at = 0; at < input.size(); at += step) {
    feed({input.begin(), input.begin() + static_cast<std::ptrdiff_t>(at)});
    auto changed = input;
    for (const std::uint8_t value : {0x00, 0x22, 0xff}) {
      changed[at] = value;
      feed(changed);
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::cerr << "usage: replay TARGET\n";
    return 2;
  }
  auto inputs = files_in(fs::path(DSTACK_SOURCE_DIR) / "tests/fuzz/seeds" / argv[1]);
  if (inputs.empty()) {
    std::cerr << "no seeds for " << argv[1] << "\n";
    return 1;
  }
  if (const char* fixtures = std::getenv("DSTACK_FIXTURES")) {
    std::ranges::copy(files_in(fs::path(fixtures) / "fuzz" / argv[1]), std::back_inserter(inputs));
  }
  feed({});
  for (const auto& path : inputs) {
    std::ifstream file(path, std::ios::binary);
    feed_with_damage({std::istreambuf_iterator<char>(file), {}});
  }
  std::cout << inputs.size() << " inputs\n";
  return 0;
}
