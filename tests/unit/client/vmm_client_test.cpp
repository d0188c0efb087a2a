#include "client/vmm_client.h"

#include <gmock/gmock.h>

#include "unit/client/fake_vmm.h"

using namespace dstack;
using base::Code;
using client::VmmClient;
using testing::HasSubstr;

namespace {

::vmm::VmInfo vm(const std::string& id, const std::string& name) {
  ::vmm::VmInfo info;
  info.set_id(id);
  info.set_name(name);
  info.set_status("running");
  return info;
}

}  // namespace

TEST(VmmClient, CallsWithTheToken) {
  test::FakeVmm fake("secret");
  fake.add(vm("a", "one"));
  const VmmClient vmm(fake.endpoint(), "secret");
  EXPECT_EQ(vmm.version()->version(), "1.2.3");
  EXPECT_EQ(vmm.vms()->size(), 1U);
  EXPECT_EQ(vmm.info("a").value()->name(), "one");
  EXPECT_EQ(vmm.info("b").value(), std::nullopt);
  EXPECT_EQ(vmm.images()->at(0).name(), "dstack-0.1.0");
  EXPECT_TRUE(vmm.is_local());
}

TEST(VmmClient, AWrongTokenNamesTheFix) {
  test::FakeVmm fake("secret");
  for (const char* token : {"", "other"}) {
    const auto result = VmmClient(fake.endpoint(), token).vms();
    ASSERT_FALSE(result);
    EXPECT_EQ(result.error().code, Code::unauthorized);
    EXPECT_THAT(result.error().fix, HasSubstr("--token"));
    EXPECT_EQ(result.error().what().find("other"), std::string::npos);
  }
  EXPECT_EQ(VmmClient(fake.endpoint(), "other").logs({.id = "a"}, [](auto) { return true; }).error().code,
            Code::unauthorized);
}

TEST(VmmClient, NothingThereNamesTheAddress) {
  std::string url;
  {
    test::FakeVmm fake;
    url = fake.url();
  }
  const auto result = VmmClient(net::Endpoint::parse(url).value(), "t").version();
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().code, Code::vmm_unreachable);
  EXPECT_THAT(result.error().message, HasSubstr(url));
  EXPECT_THAT(result.error().fix, HasSubstr("dstackup status"));
}

TEST(VmmClient, TheTokenDoesNotLeaveTheHostInClearText) {
  const VmmClient vmm(net::Endpoint::parse("http://192.0.2.1:9080").value(), "secret");
  EXPECT_FALSE(vmm.is_local());
  EXPECT_EQ(vmm.version().error().code, Code::insecure_token);
  EXPECT_EQ(vmm.logs({.id = "a"}, [](auto) { return true; }).error().code, Code::insecure_token);
}

TEST(VmmClient, AHostNameThatLooksLikeALoopbackAddressIsNotLocal) {
  for (const auto* url :
       {"http://127.0.0.1.example.net:9080", "http://127.example.net:9080", "http://127.1:9080",
        "http://localhost.example.net:9080", "http://128.0.0.1:9080"}) {
    const VmmClient vmm(net::Endpoint::parse(url).value(), "secret");
    EXPECT_FALSE(vmm.is_local()) << url;
    EXPECT_EQ(vmm.version().error().code, Code::insecure_token) << url;
  }
  for (const auto* url : {"http://127.0.0.1:9080", "http://127.255.3.4:9080", "http://[::1]:9080",
                          "http://localhost:9080", "unix:/run/vmm.sock"}) {
    EXPECT_TRUE(client::is_local_endpoint(net::Endpoint::parse(url).value())) << url;
  }
}

TEST(VmmClient, Logs) {
  test::FakeVmm fake;
  fake.add(vm("a b", "one"));
  const VmmClient vmm(fake.endpoint(), "secret");
  std::string text;
  ASSERT_TRUE(vmm.logs({.id = "a b", .lines = 7}, [&](std::string_view chunk) {
    text += chunk;
    return true;
  }));
  EXPECT_EQ(text, "line 1\nline 2\n");
  EXPECT_EQ(fake.last_log_query, "id=a%20b&follow=false&ansi=false&lines=7&ch=serial");
  EXPECT_EQ(vmm.logs({.id = "c"}, [](auto) { return true; }).error().code, Code::no_such_app);
}

TEST(VmmClient, ServerErrorsKeepTheirText) {
  test::FakeVmm fake;
  const auto result = VmmClient(fake.endpoint(), "secret").remove("nope");
  ASSERT_FALSE(result);
  EXPECT_THAT(result.error().what(), HasSubstr("VM not found"));
}
