// Running programs, as a seam.
#pragma once

#include "base/process.h"
#include "base/result.h"

namespace dstack::guest {

class Runner {
 public:
  virtual ~Runner() = default;
  // As base::run().
  virtual base::Result<base::Output> run(const base::Command& command) = 0;
  // As base::spawn().
  virtual base::Result<pid_t> spawn(const base::Spawn& what) = 0;
};

class SystemRunner : public Runner {
 public:
  base::Result<base::Output> run(const base::Command& command) override { return base::run(command); }
  base::Result<pid_t> spawn(const base::Spawn& what) override { return base::spawn(what); }
};

// "program: exit code N: last lines" of a run that did not end with 0.
base::Error program_error(base::Code code, std::string message, const base::Output& output);

}  // namespace dstack::guest
