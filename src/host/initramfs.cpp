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

std::optional<KernelPayload> kernel_payload(base::ByteView image) {
  // The setup header of the Linux x86 boot protocol, 2.08 and later.
  if (image.size() < 0x250 || base::as_text(image.subspan(0x202, 4)) != "HdrS") {
    return std::nullopt;
  }
  const auto number = [&](std::size_t offset) {
    return std::size_t{image[offset]} | std::size_t{image[offset + 1]} << 8 |
           std::size_t{image[offset + 2]} << 16 | std::size_t{image[offset + 3]} << 24;
  };
  const std::size_t setup_sectors = image[0x1f1] == 0 ? 4 : image[0x1f1];
  const auto start = (setup_sectors + 1) * 512 + number(0x248);
  const auto length = number(0x24c);
  // Behind the packed data stands the unpacked size, which is not part of it.
  if (length < 8 || start > image.size() || length > image.size() - start) {
    return std::nullopt;
  }
  auto data = image.subspan(start, length);
  if (data[0] == 0x28 && data[1] == 0xb5 && data[2] == 0x2f && data[3] == 0xfd) {
    return KernelPayload{data.first(length - 4), "zstd"};
  }
  if (data[0] == 0xfd && base::as_text(data.subspan(1, 4)) == "7zXZ") {
    return KernelPayload{data.first(length - 4), "xz"};
  }
  if (data[0] == 0x1f && data[1] == 0x8b) {
    return KernelPayload{data, "gzip"};
  }
  return std::nullopt;
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
