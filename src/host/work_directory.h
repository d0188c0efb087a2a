// A temporary directory that goes with its object.
#pragma once

#include <filesystem>
#include <string>

#include "base/result.h"

namespace dstack::host {

class WorkDirectory {
 public:
  // `<parent>/.<stem>-XXXXXX`, mode 0700; `parent` is made when missing.
  static base::Result<WorkDirectory> make(const std::filesystem::path& parent, const std::string& stem);
  // `<parent>/.<name>`: a fixed name, so that what a killed program left is found and removed first. The
  // caller holds a lock that keeps others away from that name.
  static base::Result<WorkDirectory> make_fixed(const std::filesystem::path& parent, const std::string& name);
  WorkDirectory(WorkDirectory&& other) noexcept : m_path(std::move(other.m_path)) { other.m_path.clear(); }
  WorkDirectory& operator=(WorkDirectory&&) = delete;
  WorkDirectory(const WorkDirectory&) = delete;
  WorkDirectory& operator=(const WorkDirectory&) = delete;
  ~WorkDirectory();

  const std::filesystem::path& path() const { return m_path; }
  // The directory was renamed away; nothing is removed.
  void release() { m_path.clear(); }

 private:
  explicit WorkDirectory(std::filesystem::path path) : m_path(std::move(path)) {}
  std::filesystem::path m_path;
};

}  // namespace dstack::host
