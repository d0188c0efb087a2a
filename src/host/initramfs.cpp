#include "host/initramfs.h"

#include <algorithm>
#include <set>
#include <sstream>

#include "base/format.h"
#include "base/fs.h"
#include "base/process.h"

namespace dstack::host {

using base::Code;
using base::fail;
using base::format;
using base::Result;

namespace {

constexpr std::size_t k_max_module = 64 * 1024 * 1024;

}  // namespace

std::string module_name(std::string_view path) {
  path = path.substr(path.rfind('/') == std::string_view::npos ? 0 : path.rfind('/') + 1);
  std::string name(path.substr(0, path.find(".ko")));
  std::ranges::replace(name, '-', '_');
  return name;
}

ModuleTable::ModuleTable(std::string_view dep, std::string_view builtin) {
  std::istringstream lines{std::string(dep)};
  for (std::string line; std::getline(lines, line);) {
    const auto colon = line.find(':');
    if (colon == std::string::npos) {
      continue;
    }
    const auto path = line.substr(0, colon);
    m_paths[module_name(path)] = path;
    std::istringstream words(line.substr(colon + 1));
    for (std::string word; words >> word;) {
      m_needs[path].push_back(word);
    }
  }
  std::istringstream names{std::string(builtin)};
  for (std::string line; std::getline(names, line);) {
    m_builtin.push_back(module_name(line));
  }
}

Result<std::vector<std::string>> ModuleTable::insertion_order(const std::vector<std::string>& names) const {
  std::vector<std::string> out;
  std::set<std::string> seen;
  for (const auto& wanted : names) {
    const auto name = module_name(wanted);
    const auto it = m_paths.find(name);
    if (it == m_paths.end()) {
      if (std::ranges::find(m_builtin, name) != m_builtin.end()) {
        continue;
      }
      return fail(Code::not_found, format("the kernel has no module '{}'", wanted));
    }
    // modules.dep lists what a module needs with the deepest last.
    std::vector<std::string> order;
    if (const auto needs = m_needs.find(it->second); needs != m_needs.end()) {
      order.assign(needs->second.rbegin(), needs->second.rend());
    }
    order.push_back(it->second);
    for (auto& path : order) {
      if (seen.insert(path).second) {
        out.push_back(std::move(path));
      }
    }
  }
  return out;
}

Result<std::string> read_module(const std::filesystem::path& path) {
  const auto extension = path.extension();
  const char* tool = extension == ".xz"    ? "xz"
                     : extension == ".zst" ? "zstd"
                     : extension == ".gz"  ? "gzip"
                                           : nullptr;
  if (tool == nullptr) {
    return base::read_file(path, k_max_module);
  }
  DS_TRY(auto output, base::run_checked({.argv = {tool, "--decompress", "--stdout", path.string()},
                                         .output_limit = k_max_module}));
  return std::move(output.out);
}

void CpioWriter::directory(std::string_view name) {
  entry(name, 040755, {});
}

void CpioWriter::file(std::string_view name, unsigned mode, std::string_view data) {
  entry(name, 0100000 | mode, data);
}

std::string CpioWriter::finish() {
  m_inode = 0;
  entry("TRAILER!!!", 0, {});
  m_out.resize((m_out.size() + 511) / 512 * 512);
  return std::move(m_out);
}

void CpioWriter::entry(std::string_view name, unsigned mode, std::string_view data) {
  const unsigned inode = mode == 0 ? 0 : ++m_inode;
  m_out += "070701";
  for (const std::size_t field : std::initializer_list<std::size_t>{inode, mode, 0, 0, 1, 0, data.size(), 0,
                                                                    0, 0, 0, name.size() + 1, 0}) {
    m_out += format("{:08x}", field);
  }
  m_out += name;
  m_out += '\0';
  m_out.resize((m_out.size() + 3) / 4 * 4);
  m_out += data;
  m_out.resize((m_out.size() + 3) / 4 * 4);
}

}  // namespace dstack::host
