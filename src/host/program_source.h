// Where new programs come from: a directory, or an archive that is unpacked for as long as this object lives.
#pragma once

#include <filesystem>
#include <optional>

#include "base/result.h"
#include "host/programs.h"
#include "host/work_directory.h"

namespace dstack::host {

class ProgramSource {
 public:
  // An archive may hold the programs at its top or in one directory; a sha256sum.txt beside them must list
  // each and be right. It is unpacked below `work`, where programs can be run.
  static base::Result<ProgramSource> open(const std::filesystem::path& from,
                                          const std::filesystem::path& work);

  const ProgramSet& programs() const { return m_programs; }

 private:
  ProgramSource(std::optional<WorkDirectory> work, ProgramSet programs)
      : m_work(std::move(work)), m_programs(std::move(programs)) {}

  std::optional<WorkDirectory> m_work;
  ProgramSet m_programs;
};

}  // namespace dstack::host
