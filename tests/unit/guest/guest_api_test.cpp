#include "guest/guest_api.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "unit/guest/evidence_fixture.h"

namespace dstack::guest {
namespace {

class GuestApiTest : public testing::Test {
 protected:
  GuestApiTest() {
    AgentContext context;
    context.vm_config = k_test_vm_config;
    context.identity.app_id = base::Bytes(20, 0x11);
    m_agent = std::make_unique<Agent>(std::move(context), m_evidence);
    m_api = std::make_unique<GuestApi>(*m_agent, "secret", [this] { ++m_shutdowns; });
  }
  net::Response post(const std::string& path, const std::string& authorization) const {
    net::Request request;
    request.method = "POST";
    request.path = path;
    request.query = "json";
    if (!authorization.empty()) {
      request.headers.set("Authorization", authorization);
    }
    return m_api->handle(request);
  }
  attest::SimulatedEvidence m_evidence = make_test_evidence();
  int m_shutdowns = 0;
  std::unique_ptr<Agent> m_agent;
  std::unique_ptr<GuestApi> m_api;
};

TEST_F(GuestApiTest, NeedsTheToken) {
  for (const char* value :
       {"", "Bearer ", "Bearer secre", "Bearer secrets", "bearer secret", "secret", "Basic secret"}) {
    EXPECT_EQ(post("/api/Shutdown", value).status, 401) << value;
  }
  EXPECT_EQ(m_shutdowns, 0);
}

TEST_F(GuestApiTest, ShutsDown) {
  const auto response = post("/api/Shutdown", "Bearer secret");
  EXPECT_EQ(response.status, 200);
  EXPECT_EQ(response.body, "null");
  EXPECT_EQ(m_shutdowns, 1);
}

TEST_F(GuestApiTest, TellsWhoItIs) {
  const auto response = post("/api/Info", "Bearer secret");
  ASSERT_EQ(response.status, 200) << response.body;
  const auto json = nlohmann::json::parse(response.body);
  EXPECT_EQ(json["version"], DSTACK_VERSION);
  EXPECT_EQ(json["app_id"], std::string(40, '1'));
}

TEST_F(GuestApiTest, ServesNothingElse) {
  EXPECT_EQ(post("/GetKey", "Bearer secret").status, 404);
  EXPECT_EQ(post("/api/GetKey", "Bearer secret").status, 400);
}

}  // namespace
}  // namespace dstack::guest
