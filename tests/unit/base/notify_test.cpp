#include "base/notify.h"

#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "base/fd.h"
#include "unit/temp_dir.h"

using namespace dstack;

TEST(Notify, SpeaksTheProtocol) {
  const test::TempDir dir;
  const auto path = (dir / "notify").string();
  const base::Fd socket(::socket(AF_UNIX, SOCK_DGRAM, 0));
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  path.copy(address.sun_path, sizeof address.sun_path - 1);
  ASSERT_EQ(::bind(socket.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  ::setenv("NOTIFY_SOCKET", path.c_str(), 1);
  base::notify_ready("listening\non 1");
  base::notify_failed(base::Error{base::Code::address_in_use, "port 1 is taken", {}, "choose another"}, 98);
  ::unsetenv("NOTIFY_SOCKET");
  base::notify_ready("nobody hears this");
  char buffer[512];
  auto n = ::recv(socket.get(), buffer, sizeof buffer, MSG_DONTWAIT);
  EXPECT_EQ(std::string(buffer, static_cast<std::size_t>(n)), "READY=1\nSTATUS=listening\\x0aon 1");
  n = ::recv(socket.get(), buffer, sizeof buffer, MSG_DONTWAIT);
  EXPECT_EQ(std::string(buffer, static_cast<std::size_t>(n)),
            "STATUS=port 1 is taken; choose another\nERRNO=98");
  EXPECT_LT(::recv(socket.get(), buffer, sizeof buffer, MSG_DONTWAIT), 0);
}
