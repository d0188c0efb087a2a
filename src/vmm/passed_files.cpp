#include "vmm/passed_files.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>

#include "base/format.h"

namespace dstack::vmm {

using base::Code;
using base::fail;
using base::fail_errno;
using base::Fd;
using base::Result;

namespace {

// The kernel takes 253 in one message; the numbers below the first one have to suffice to receive them.
constexpr std::size_t k_most_files = 90;

int flags_of(PassedFile::Access access) {
  switch (access) {
    case PassedFile::Access::read:
      return O_RDONLY;
    case PassedFile::Access::write:
      return O_RDWR;
    case PassedFile::Access::append:
      return O_WRONLY | O_APPEND | O_CREAT | O_NOFOLLOW;
  }
  return O_RDONLY;
}

Result<Fd> open_one(const PassedFile& file, bool other_user) {
  Fd fd(::open(file.path.c_str(), flags_of(file.access) | O_CLOEXEC | O_NOCTTY, 0600));
  if (!fd) {
    return fail_errno(Code::vm_start, base::format("cannot open {}", file.path.native()), errno);
  }
  struct stat info{};
  if (file.reopened && other_user && ::fstat(fd.get(), &info) == 0 && (info.st_mode & S_IROTH) == 0) {
    return fail(Code::vm_start,
                base::format("{} cannot be read by the user that the VM runs as", file.path.native()),
                base::format("images hold nothing secret: chmod o+r '{}'", file.path.native()));
  }
  return fd;
}

struct Message {
  explicit Message(std::size_t count) : numbers(count), control(CMSG_SPACE(count * sizeof(int))) {
    vector = {numbers.data(), numbers.size() * sizeof(int)};
    header.msg_iov = &vector;
    header.msg_iovlen = 1;
    header.msg_control = control.data();
    header.msg_controllen = control.size();
  }
  Message(const Message&) = delete;
  Message& operator=(const Message&) = delete;

  std::vector<int> numbers;
  std::vector<char> control;
  iovec vector{};
  msghdr header{};
};

}  // namespace

Result<OpenFiles> open_files(const std::vector<PassedFile>& files, bool other_user) {
  if (files.size() > k_most_files) {
    return fail(Code::vm_start, base::format("a VM cannot have {} files", files.size()),
                "attach fewer volumes");
  }
  OpenFiles out;
  for (const auto& file : files) {
    DS_TRY(auto fd, open_one(file, other_user));
    out.emplace_back(std::move(fd), file.number);
  }
  return out;
}

Result<Fd> hand_over(const OpenFiles& files) {
  int pair[2] = {-1, -1};
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0) {
    return fail_errno(Code::vm_start, "cannot make a socket", errno);
  }
  const Fd sender(pair[0]);
  Fd receiver(pair[1]);
  if (files.empty()) {
    return receiver;
  }
  Message message(files.size());
  auto* part = CMSG_FIRSTHDR(&message.header);
  part->cmsg_level = SOL_SOCKET;
  part->cmsg_type = SCM_RIGHTS;
  part->cmsg_len = CMSG_LEN(files.size() * sizeof(int));
  std::vector<int> descriptors;
  for (std::size_t i = 0; i < files.size(); ++i) {
    message.numbers[i] = files[i].second;
    descriptors.push_back(files[i].first.get());
  }
  std::memcpy(CMSG_DATA(part), descriptors.data(), descriptors.size() * sizeof(int));
  if (::sendmsg(sender.get(), &message.header, MSG_NOSIGNAL) < 0) {
    return fail_errno(Code::vm_start, "cannot hand files over to the VM's process", errno);
  }
  return receiver;
}

Result<> take_over() {
  Message message(k_most_files);
  const auto size = ::recvmsg(STDIN_FILENO, &message.header, MSG_CMSG_CLOEXEC);
  if (size < 0) {
    return fail_errno(Code::vm_start, "standard input holds no files", errno);
  }
  const auto count = static_cast<std::size_t>(size) / sizeof(int);
  std::vector<int> descriptors;
  if (const auto* part = CMSG_FIRSTHDR(&message.header);
      part != nullptr && part->cmsg_level == SOL_SOCKET && part->cmsg_type == SCM_RIGHTS) {
    descriptors.resize((part->cmsg_len - CMSG_LEN(0)) / sizeof(int));
    std::memcpy(descriptors.data(), CMSG_DATA(part), descriptors.size() * sizeof(int));
  }
  if (descriptors.size() != count || (message.header.msg_flags & (MSG_CTRUNC | MSG_TRUNC)) != 0) {
    return fail(Code::vm_start, base::format("{} of {} files arrived", descriptors.size(), count),
                "raise the limit of open files");
  }
  int above = 3;
  for (std::size_t i = 0; i < count; ++i) {
    above = std::max(above, message.numbers[i] + 1);
  }
  // First out of the way of the numbers, then to them.
  for (auto& fd : descriptors) {
    fd = ::fcntl(fd, F_DUPFD_CLOEXEC, above);
    if (fd < 0) {
      return fail_errno(Code::vm_start, "cannot keep the files", errno);
    }
  }
  for (std::size_t i = 0; i < count; ++i) {
    if (::dup2(descriptors[i], message.numbers[i]) < 0) {
      return fail_errno(Code::vm_start, "cannot place the files", errno);
    }
  }
  const Fd null(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  if (!null || ::dup2(null.get(), STDIN_FILENO) < 0) {
    return fail_errno(Code::vm_start, "cannot open /dev/null", errno);
  }
  return {};
}

int run_handed_over(int argc, char** argv) {
  if (argc < 1) {
    std::fputs("dstack-vmm: run-vm needs a program\n", stderr);
    return 2;
  }
  if (const auto taken = take_over(); !taken) {
    std::fprintf(stderr, "dstack-vmm: %s\n", taken.error().what().c_str());
    return 1;
  }
  // What was received is marked to be closed; what lies at its number is not.
  ::execv(argv[0], argv);
  std::fprintf(stderr, "dstack-vmm: cannot run %s: %s\n", argv[0], std::strerror(errno));
  return 127;
}

}  // namespace dstack::vmm
