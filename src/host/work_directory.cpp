#include "host/work_directory.h"

#include <stdlib.h>

#include <cerrno>

#include "base/format.h"
#include "base/fs.h"

namespace dstack::host {

base::Result<WorkDirectory> WorkDirectory::make(const std::filesystem::path& parent,
                                                const std::string& stem) {
  DS_CHECK(base::make_dirs(parent));
  auto name = (parent / base::format(".{}-XXXXXX", stem)).string();
  if (::mkdtemp(name.data()) == nullptr) {
    return base::fail_errno(errno == ENOSPC ? base::Code::no_space : base::Code::io,
                            base::format("cannot make a directory in {}", parent.string()), errno);
  }
  return WorkDirectory(name);
}

base::Result<WorkDirectory> WorkDirectory::make_fixed(const std::filesystem::path& parent,
                                                      const std::string& name) {
  const auto path = parent / ("." + name);
  DS_CHECK(base::remove_tree(path));
  DS_CHECK(base::make_dirs(path, 0700));
  return WorkDirectory(path);
}

WorkDirectory::~WorkDirectory() {
  if (!m_path.empty()) {
    (void)base::remove_tree(m_path);
  }
}

}  // namespace dstack::host
