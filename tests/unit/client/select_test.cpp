#include "client/select.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

using namespace dstack;
using base::Code;
using client::find_vm;
using testing::HasSubstr;

namespace {

::vmm::VmInfo vm(const std::string& id, const std::string& name, const std::string& app_id) {
  ::vmm::VmInfo info;
  info.set_id(id);
  info.set_name(name);
  info.set_app_id(app_id);
  return info;
}

const std::vector<::vmm::VmInfo> k_vms = {vm("abcd1111", "web", "aaaa00"), vm("abcd2222", "db", "bbbb00"),
                                          vm("ef001111", "abcd", "cccc00"), vm("ef002222", "twin", "dddd00"),
                                          vm("ef003333", "twin", "dddd00")};

std::string id_of(std::string_view text) {
  const auto found = find_vm(k_vms, text);
  return found ? found->id() : base::to_string(found.error().code);
}

}  // namespace

TEST(FindVm, IdsNamesAppIdsAndPrefixes) {
  EXPECT_EQ(id_of("abcd1111"), "abcd1111");
  EXPECT_EQ(id_of("db"), "abcd2222");
  EXPECT_EQ(id_of("bbbb00"), "abcd2222");
  EXPECT_EQ(id_of("0xBBBB00"), "abcd2222");
  EXPECT_EQ(id_of("abcd1"), "abcd1111");
  EXPECT_EQ(id_of("ABCD2"), "abcd2222");
  EXPECT_EQ(id_of("cccc"), "ef001111");
  EXPECT_EQ(id_of("abcd"), "ef001111") << "a name goes before a prefix";
}

TEST(FindVm, AmbiguousAndUnknown) {
  EXPECT_EQ(id_of("twin"), base::to_string(Code::ambiguous_app));
  EXPECT_EQ(id_of("ef00"), base::to_string(Code::ambiguous_app));
  EXPECT_EQ(id_of("ef0"), base::to_string(Code::no_such_app)) << "prefixes shorter than 4 do not count";
  EXPECT_EQ(id_of(""), base::to_string(Code::no_such_app));
  EXPECT_EQ(id_of("0x"), base::to_string(Code::no_such_app));
  const auto ambiguous = find_vm(k_vms, "twin");
  EXPECT_THAT(ambiguous.error().message, AllOf(HasSubstr("ef002222"), HasSubstr("ef003333")));
}
