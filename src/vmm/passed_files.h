// Files that a VM's process is given open, so that the user it runs as needs access to none of them.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/fd.h"
#include "base/result.h"
#include "vmm/qemu_args.h"

namespace dstack::vmm {

// Descriptors of this process, each with its number in the VM's.
using OpenFiles = std::vector<std::pair<base::Fd, int>>;

// Opens them as this process's user. With `other_user`, what that one has to open anew must be readable by
// everybody. Code::vm_start names the file.
base::Result<OpenFiles> open_files(const std::vector<PassedFile>& files, bool other_user);

// A socket that holds them all: it becomes the standard input of a process that somebody else starts. They
// may be closed here at once.
base::Result<base::Fd> hand_over(const OpenFiles& files);
// In that process: takes them out of standard input, each to its number, and standard input becomes empty.
base::Result<> take_over();

// The first argument of this program in a unit: `dstack-vmm run-vm PROGRAM ARG...`.
inline constexpr std::string_view k_run_vm = "run-vm";
// take_over(), then PROGRAM instead of this one. Returns only when that fails, with the exit code.
int run_handed_over(int argc, char** argv);

}  // namespace dstack::vmm
