// From images to a running app and back to nothing, and the gate in between. Runs in the order of
// tests/e2e/CMakeLists.txt; each part is its own process.
#include <google/protobuf/empty.pb.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <thread>

#include "base/bytes.h"
#include "base/fs.h"
#include "crypto/hash.h"
#include "e2e/lab.h"
#include "host/image.h"
#include "host/layout.h"
#include "host/state.h"
#include "net/client.h"
#include "proto/vmm_rpc.pb.h"
#include "rpc/client.h"

namespace fs = std::filesystem;
using namespace dstack;
using namespace dstack::e2e;
using nlohmann::json;

namespace {

constexpr const char* k_app = "hello";

host::InstallState installed(const Lab& lab) {
  const auto state = host::load_state(lab.state() / "dstackup-state.json");
  EXPECT_TRUE(state) << (state ? "" : state.error().what());
  return state && *state ? **state : host::InstallState{};
}

rpc::Client vmm_client(const Lab& lab) {
  const auto token = base::read_file(lab.config() / "vmm-auth-token");
  return rpc::Client(net::Client(*net::Endpoint::parse(installed(lab).client_url)), "/prpc",
                     token ? std::string(base::trim(*token)) : "");
}

// The JSON that a command with -j printed.
json answer(const base::Output& output) {
  const auto parsed = json::parse(output.out, nullptr, /*allow_exceptions=*/false);
  EXPECT_FALSE(parsed.is_discarded()) << "not JSON: " << output.out;
  return parsed;
}

json app_named(const Lab& lab, const std::string& name) {
  const auto output = lab.run({"dstack", "apps", "-j"});
  if (output.exit_code != 0) {
    return nullptr;
  }
  for (const auto& app : answer(output)) {
    if (app["name"] == name) {
      return app;
    }
  }
  return nullptr;
}

std::string compose_file(const Lab& lab) {
  return (lab.source / "examples/hello-nginx/docker-compose.yaml").string();
}

int vmm_pid(const Lab& lab) {
  for (const auto& process : processes_naming((lab.config() / "vmm.toml").string())) {
    if (process.find("dstack-vmm ") != std::string::npos) {
      return std::stoi(process);
    }
  }
  return 0;
}

// What the app published on: kept in a file, since every part is a process of its own.
std::uint16_t app_port(const Lab& lab) {
  std::ifstream file(lab.directory / "app-port");
  int port = 0;
  file >> port;
  return static_cast<std::uint16_t>(port);
}

// The containers' start is done when nginx's process exists; on a busy machine it answers much later.
void expect_the_page(const Lab& lab) {
  HttpAnswer page;
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(90);
  while (page.status != 200 && std::chrono::steady_clock::now() < deadline) {
    page = get(app_port(lab));
    std::this_thread::sleep_for(std::chrono::milliseconds(250));
  }
  EXPECT_EQ(page.status, 200);
  EXPECT_NE(page.body.find("Hello from nginx"), std::string::npos) << page.body;
}

}  // namespace

TEST(Images, GuestKmsAndExampleAreBuilt) {
  const auto lab = Lab::open();
  fs::create_directories(lab.directory);
  const auto output =
      // A run that was cut off may have left an installation.
      base::run({.argv = {(lab.source / "dev").string(), "images", "--force"},
                 .environment = {"DSTACK_PREFIX=" + lab.prefix.string(),
                                 "DSTACK_BUILD_DIR=" + lab.programs.parent_path().string()},
                 .timeout = std::chrono::minutes(14),
                 .on_line = [](std::string_view line) { std::cout << "  | " << line << std::endl; }});
  ASSERT_TRUE(output) << output.error().what();
  ASSERT_EQ(output->exit_code, 0);
  const auto images = host::list_images(lab.state() / "images");
  ASSERT_TRUE(images) << images.error().what();
  ASSERT_FALSE(images->empty());
  for (const auto& image : *images) {
    const auto verified = host::verify_image_digest(image);
    EXPECT_TRUE(verified) << verified.error().what();
  }
}

TEST(Install, EndsWithAKmsWhoseCertificateIsPinned) {
  const auto lab = Lab::open();
  const auto output = lab.run({"dstackup", "install", "--platform", "simulated", "--dashboard-port",
                               std::to_string(free_port()), "--auth-port", std::to_string(free_port()),
                               "--host-api-port", std::to_string(free_port())});
  ASSERT_EQ(output.exit_code, 0) << output.err;
  const auto state = installed(lab);
  ASSERT_FALSE(state.kms_ca_cert.empty());
  const auto pinned = base::read_file(state.kms_ca_cert);
  ASSERT_TRUE(pinned);
  EXPECT_NE(pinned->find("BEGIN CERTIFICATE"), std::string::npos);

  // The KMS answers under the pinned root, and under no other.
  net::Endpoint endpoint;
  endpoint.kind = net::Endpoint::Kind::tls;
  endpoint.host = "127.0.0.1";
  endpoint.port = state.kms_port;
  net::ClientOptions options;
  options.tls.insecure = true;
  const auto health = net::Client(endpoint, options).send({.path = "/health"});
  ASSERT_TRUE(health) << health.error().what();
  EXPECT_EQ(health->body, "OK");

  const auto status = lab.run({"dstackup", "status"});
  EXPECT_EQ(status.exit_code, 0);
  EXPECT_NE(status.out.find("simulated"), std::string::npos);
}

TEST(Deploy, TheAppAnswers200WithKeysFromTheKms) {
  const auto lab = Lab::open();
  const auto port = free_port();
  std::ofstream(lab.directory / "app-port") << port;
  const auto dry = lab.run({"dstack", "deploy", "-c", compose_file(lab), "-n", k_app, "--dry-run", "-j"});
  ASSERT_EQ(dry.exit_code, 0);
  const auto planned = answer(dry);
  EXPECT_EQ(planned["dryRun"], true);

  const auto output = lab.run(
      {"dstack", "deploy", "-c", compose_file(lab), "-n", k_app, "--port", std::to_string(port) + ":80"});
  ASSERT_EQ(output.exit_code, 0) << output.err;
  expect_the_page(lab);

  const auto app = app_named(lab, k_app);
  ASSERT_TRUE(app.is_object());
  EXPECT_EQ(app["status"], "running");
  EXPECT_EQ(app["appId"], planned["appId"]);

  const auto logs = lab.run({"dstack", "logs", k_app, "--lines", "500"});
  EXPECT_EQ(logs.exit_code, 0);
  EXPECT_NE(logs.out.find("requesting app keys"), std::string::npos) << logs.out;
}

TEST(VmmKilled, AppsGoOnAndAreFoundAgain) {
  const auto lab = Lab::open();
  const int before = vmm_pid(lab);
  ASSERT_GT(before, 0);
  ASSERT_EQ(::kill(before, SIGKILL), 0);
  expect_the_page(lab);
  json app;
  for (int i = 0; i < 100 && !app.is_object(); ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(200));
    app = app_named(lab, k_app);
  }
  EXPECT_NE(vmm_pid(lab), 0) << "the service manager did not start the VMM again";
  EXPECT_NE(vmm_pid(lab), before);
  ASSERT_TRUE(app.is_object());
  EXPECT_EQ(app["status"], "running");
  expect_the_page(lab);
}

TEST(Gate, UnregisteredAppGetsNoKeys) {
  const auto lab = Lab::open();
  // Registered in a file that the webhook does not read.
  const auto other = lab.directory / "other-allowlist.json";
  fs::copy_file(lab.config() / "auth-allowlist.json", other, fs::copy_options::overwrite_existing);
  const auto output = lab.run({"dstack", "deploy", "-c", compose_file(lab), "-n", "stranger", "--allowlist",
                               other.string(), "--timeout", "120"});
  EXPECT_EQ(output.exit_code, 1);
  EXPECT_NE((output.out + output.err).find("app not registered"), std::string::npos);
  const auto app = app_named(lab, "stranger");
  EXPECT_NE(app.dump().find("app not registered"), std::string::npos)
      << "dstack apps must show the reason: " << app;
  EXPECT_EQ(lab.run({"dstack", "remove", "stranger"}).exit_code, 0);
}

TEST(Gate, OtherImageGetsNoKeys) {
  const auto lab = Lab::open();
  // The same system under another digest: what an unknown build of the image looks like to the KMS.
  const auto images = host::list_images(lab.state() / "images");
  ASSERT_TRUE(images && !images->empty());
  const auto& image = images->front();
  const auto copy = lab.state() / "images/other";
  fs::remove_all(copy);
  fs::copy(image.directory, copy, fs::copy_options::recursive);
  auto metadata = json::parse(*base::read_file(copy / "metadata.json"));
  metadata["git_revision"] = "another build";
  ASSERT_TRUE(base::write_file_atomic(copy / "metadata.json", metadata.dump(2)));
  auto sums = *base::read_file(copy / "sha256sum.txt");
  std::string rewritten;
  for (std::size_t at = 0; at < sums.size();) {
    const auto end = sums.find('\n', at);
    const auto name = sums.substr(at + 66, end - at - 66);
    rewritten += base::to_hex(crypto::sha256(base::as_bytes(*base::read_file(copy / name, 1 << 28)))) + "  " +
                 name + "\n";
    at = end + 1;
  }
  ASSERT_TRUE(base::write_file_atomic(copy / "sha256sum.txt", rewritten));
  ASSERT_TRUE(
      base::write_file_atomic(copy / "digest.txt", base::to_hex(crypto::sha256(base::as_bytes(rewritten)))));

  const auto output = lab.run({"dstack", "deploy", "-c", compose_file(lab), "-n", "otherimage", "--image",
                               "other", "--timeout", "120"});
  EXPECT_EQ(output.exit_code, 1);
  EXPECT_NE((output.out + output.err).find("os image not allowed"), std::string::npos);
  EXPECT_EQ(lab.run({"dstack", "remove", "otherimage"}).exit_code, 0);
  fs::remove_all(copy);
}

TEST(Gate, ChangedComposeGetsNoKeys) {
  const auto lab = Lab::open();
  const auto app = app_named(lab, k_app);
  ASSERT_TRUE(app.is_object());
  const std::string id = app["id"];
  ::vmm::Id request;
  request.set_id(id);
  const auto client = vmm_client(lab);
  ASSERT_TRUE(client.call<google::protobuf::Empty>("StopVm", request));
  const auto file = lab.state() / "vm" / id / "shared/app-compose.json";
  const auto original = base::read_file(file);
  ASSERT_TRUE(original);
  auto changed = *original;
  changed.replace(changed.find("\"public_logs\": true"), 19, "\"public_logs\":  true");
  ASSERT_TRUE(base::write_file_atomic(file, changed));
  const auto info = [&] {
    auto response = client.call<::vmm::GetInfoResponse>("GetInfo", request);
    return response ? response->info() : ::vmm::VmInfo();
  };
  for (int i = 0; i < 100 && info().status() != "stopped"; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
  const auto started = client.call<google::protobuf::Empty>("StartVm", request);
  ASSERT_TRUE(started) << started.error().what();
  ::vmm::VmInfo last;
  for (int i = 0; i < 600 && last.boot_error().empty() && last.boot_progress() != "done"; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(200));
    last = info();
  }
  EXPECT_NE(last.boot_error().find("compose hash not allowed"), std::string::npos)
      << last.boot_progress() << " / " << last.boot_error();
  EXPECT_NE(get(app_port(lab)).status, 200);

  // As it was, it gets its keys again.
  ASSERT_TRUE(client.call<google::protobuf::Empty>("StopVm", request));
  ASSERT_TRUE(base::write_file_atomic(file, *original));
  for (int i = 0; i < 100 && info().status() != "stopped"; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
  ASSERT_TRUE(client.call<google::protobuf::Empty>("StartVm", request));
  for (int i = 0; i < 600 && info().boot_progress() != "done"; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(200));
  }
  expect_the_page(lab);
}

TEST(InstallAgain, ConvergesWithoutLosingAnything) {
  const auto lab = Lab::open();
  const auto state = installed(lab);
  const auto token = base::read_file(lab.config() / "vmm-auth-token");
  const auto allowlist = base::read_file(lab.config() / "auth-allowlist.json");
  const auto output = lab.run({"dstackup", "install", "--platform", "simulated"});
  ASSERT_EQ(output.exit_code, 0) << output.err;
  const auto again = installed(lab);
  EXPECT_EQ(again.client_url, state.client_url);
  EXPECT_EQ(again.kms_vm_id, state.kms_vm_id);
  EXPECT_EQ(again.kms_ca_sha256, state.kms_ca_sha256);
  EXPECT_EQ(*base::read_file(lab.config() / "vmm-auth-token"), *token);
  EXPECT_EQ(*base::read_file(lab.config() / "auth-allowlist.json"), *allowlist)
      << "no app may lose its entry";
  expect_the_page(lab);
}

TEST(Destroy, PurgeLeavesNothing) {
  const auto lab = Lab::open();
  if (!fs::exists(lab.state() / "dstackup-state.json") && !fs::exists(lab.state() / "journal")) {
    GTEST_SKIP() << "nothing was installed";
  }
  const auto output = lab.run({"dstackup", "destroy", "--purge"});
  EXPECT_EQ(output.exit_code, 0) << output.err;
  EXPECT_EQ(tree(lab.prefix), std::vector<std::string>{});
  EXPECT_FALSE(fs::exists(lab.prefix));
  EXPECT_EQ(processes_naming(lab.prefix.string()), std::vector<std::string>{});
  EXPECT_EQ(get(app_port(lab)).status, 0);
  fs::remove_all(lab.directory);
}
