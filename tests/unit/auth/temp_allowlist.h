// An allow-list file in a directory of its own.
#pragma once

#include <stdlib.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>
#include <string>

namespace dstack::auth::test {

class TempAllowlist {
 public:
  TempAllowlist() {
    char name[] = "/tmp/dstack-auth-XXXXXX";
    m_dir = ::mkdtemp(name);
  }
  ~TempAllowlist() { std::filesystem::remove_all(m_dir); }
  TempAllowlist(const TempAllowlist&) = delete;
  TempAllowlist& operator=(const TempAllowlist&) = delete;

  std::filesystem::path directory() const { return m_dir; }
  std::filesystem::path path() const { return m_dir / "auth-allowlist.json"; }
  // By rename, as the real writer does it.
  void write(const std::string& text) const {
    const auto temporary = m_dir / "new";
    std::ofstream(temporary) << text;
    ::chmod(temporary.c_str(), 0644);
    std::filesystem::rename(temporary, path());
  }

 private:
  std::filesystem::path m_dir;
};

}  // namespace dstack::auth::test
