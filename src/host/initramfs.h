// The pieces of an initramfs: kernel modules in dependency order, and the newc cpio format.
#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"

namespace dstack::host {

// A kernel's modules.dep and modules.builtin.
class ModuleTable {
 public:
  // `dep`: "kernel/x.ko.xz: kernel/y.ko.xz …" lines; `builtin`: "kernel/z.ko" lines.
  ModuleTable(std::string_view dep, std::string_view builtin);
  // Paths of the named modules and what they need, in an order in which they can be inserted; a module comes
  // once, built-in ones not at all. '-' and '_' in names are the same. Code::not_found names one that does
  // not exist.
  base::Result<std::vector<std::string>> insertion_order(const std::vector<std::string>& names) const;

 private:
  std::map<std::string, std::string> m_paths;
  std::map<std::string, std::vector<std::string>> m_needs;
  std::vector<std::string> m_builtin;
};

// "kernel/drivers/net/virtio_net.ko.xz" -> "virtio_net".
std::string module_name(std::string_view path);

// The bytes of a module file, unpacked when its name ends in .xz, .zst or .gz.
base::Result<std::string> read_module(const std::filesystem::path& path);

// The packed kernel inside a bzImage and the program that unpacks it ("zstd", "xz", "gzip").
struct KernelPayload {
  base::ByteView data;
  const char* tool = nullptr;
};
// nullopt when this is no bzImage, its header does not fit it, or the packing is unknown.
std::optional<KernelPayload> kernel_payload(base::ByteView image);

// newc cpio: owner root, time 0, entries in the order added. Parents must be added before what they hold.
class CpioWriter {
 public:
  void directory(std::string_view name);
  void file(std::string_view name, unsigned mode, std::string_view data);
  // The finished archive, padded to 512 bytes.
  std::string finish();

 private:
  void entry(std::string_view name, unsigned mode, std::string_view data);
  std::string m_out;
  unsigned m_inode = 0;
};

}  // namespace dstack::host
