// Each wrong input gets one clear line that names the thing and the fix, a non-zero exit and no half-made
// state.
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <fstream>

#include "base/fs.h"
#include "e2e/lab.h"

namespace fs = std::filesystem;
using namespace dstack;
using namespace dstack::e2e;

namespace {

class BadInput : public testing::Test {
 protected:
  void SetUp() override {
    m_allowlist = *base::read_file(lab.config() / "auth-allowlist.json");
    m_vms = tree(lab.state() / "vm").size();
  }
  void TearDown() override {
    EXPECT_EQ(*base::read_file(lab.config() / "auth-allowlist.json"), m_allowlist)
        << "a refused command left a grant";
  }

  // Fails with `code`, and its error names `thing`; a fix is given.
  void expect_refused(const base::Output& output, const std::string& thing, int exit_code = 1) const {
    EXPECT_EQ(output.exit_code, exit_code);
    EXPECT_NE(output.err.find("error[DS"), std::string::npos) << output.err;
    EXPECT_NE(output.err.find(thing), std::string::npos) << output.err;
    EXPECT_NE(output.err.find("fix:"), std::string::npos) << output.err;
  }

  std::string file(const std::string& name, const std::string& text) const {
    const auto path = lab.directory / name;
    std::ofstream(path) << text;
    return path.string();
  }

  std::string hello() const { return (lab.source / "examples/hello-nginx/docker-compose.yaml").string(); }

  Lab lab = Lab::open();

 private:
  std::string m_allowlist;
  std::size_t m_vms = 0;
};

}  // namespace

TEST_F(BadInput, MalformedComposeNamesTheLine) {
  expect_refused(lab.run({"dstack", "deploy", "-c", file("bad.yaml", "services:\n  web: [\n"), "-n", "bad"}),
                 "bad.yaml");
  expect_refused(lab.run({"dstack", "deploy", "-c", file("none.yaml", "version: 3\n"), "-n", "bad"}),
                 "services");
  expect_refused(lab.run({"dstack", "deploy", "-c", "/no/such/compose.yaml", "-n", "bad"}),
                 "/no/such/compose.yaml");
}

TEST_F(BadInput, PortInUseIsNamed) {
  const base::Fd socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const auto port = free_port();
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  ASSERT_EQ(::bind(socket.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  ASSERT_EQ(::listen(socket.get(), 1), 0);
  expect_refused(
      lab.run({"dstack", "deploy", "-c", hello(), "-n", "bad", "--port", std::to_string(port) + ":80"}),
      std::to_string(port));
}

TEST_F(BadInput, PortSpecIsChecked) {
  for (const std::string spec : {"sctp:1:2", "70000", ":0", "1:2:3:4:5", "x"}) {
    const auto output = lab.run({"dstack", "deploy", "-c", hello(), "-n", "bad", "--port", spec});
    EXPECT_NE(output.exit_code, 0) << spec;
    EXPECT_NE(output.err.find(spec), std::string::npos) << output.err;
  }
}

TEST_F(BadInput, MissingImageIsNamed) {
  expect_refused(lab.run({"dstack", "deploy", "-c", hello(), "-n", "bad", "--image", "no-such-image"}),
                 "no-such-image");
}

TEST_F(BadInput, WrongTokenIsNotMistakenForADeadVmm) {
  const auto output = lab.run({"dstack", "apps", "--token", "wrong"});
  expect_refused(output, "token");
}

TEST_F(BadInput, VmmThatIsNotThereIsNamed) {
  const auto url = "http://127.0.0.1:" + std::to_string(free_port());
  expect_refused(lab.run({"dstack", "apps", "--host", url, "--token", "x"}), url);
}

TEST_F(BadInput, CorruptStateFileIsNotMistakenForNotInstalled) {
  const auto path = lab.state() / "dstackup-state.json";
  const auto good = *base::read_file(path);
  ASSERT_TRUE(base::write_file_atomic(path, "{\"prefix\": "));
  const auto apps = lab.run({"dstack", "apps"});
  const auto install = lab.run({"dstackup", "install", "--platform", "simulated"});
  const auto status = lab.run({"dstackup", "status"});
  ASSERT_TRUE(base::write_file_atomic(path, good));
  expect_refused(apps, "dstackup-state.json");
  expect_refused(install, "dstackup-state.json");
  expect_refused(status, "dstackup-state.json");
}

TEST_F(BadInput, UnknownAppIsNamed) {
  expect_refused(lab.run({"dstack", "logs", "no-such-app"}), "no-such-app");
  expect_refused(lab.run({"dstack", "remove", "no-such-app"}), "no-such-app");
}
