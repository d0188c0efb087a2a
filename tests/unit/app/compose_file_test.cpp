#include "app/compose_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

using namespace dstack;
using app::parse_compose_file;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::StartsWith;

namespace {

std::string error_of(std::string_view text) {
  auto parsed = parse_compose_file(text, "c.yaml");
  EXPECT_FALSE(parsed) << text;
  if (!parsed) {
    EXPECT_EQ(parsed.error().code, base::Code::bad_compose_file);
    EXPECT_FALSE(parsed.error().fix.empty());
    return parsed.error().what();
  }
  return {};
}

}  // namespace

TEST(ComposeFile, ServicesImagesAndPorts) {
  auto file = parse_compose_file(R"(
name: demo
services:
  web:
    image: nginx:alpine
    ports:
      - "8080:80"
      - 127.0.0.1:9090:90/udp
      - 443
      - target: 22
        published: "2222"
        protocol: tcp
      - "3000-3005:3000-3005"
  worker:
    image: "registry.example/worker@sha256:0123"
  again:
    image: nginx:alpine
  variable:
    image: app:${TAG}
)",
                                 "c.yaml");
  ASSERT_TRUE(file) << file.error().what();
  ASSERT_EQ(file->services.size(), 4U);
  EXPECT_THAT(file->services[0].ports,
              ElementsAre(app::ComposePort{"tcp", 80, 8080}, app::ComposePort{"udp", 90, 9090},
                          app::ComposePort{"tcp", 443, std::nullopt}, app::ComposePort{"tcp", 22, 2222}));
  EXPECT_THAT(file->images(), ElementsAre("nginx:alpine", "registry.example/worker@sha256:0123"));
  EXPECT_TRUE(file->has_unknown_ports);
}

TEST(ComposeFile, PublishedPorts) {
  auto file = parse_compose_file("services: {web: {image: a, ports: ['80:8000', '53:53/udp']}}", "c.yaml");
  ASSERT_TRUE(file) << file.error().what();
  EXPECT_TRUE(file->may_publish(80, "tcp"));
  EXPECT_FALSE(file->may_publish(8000, "tcp"));
  EXPECT_FALSE(file->may_publish(53, "tcp"));
  EXPECT_TRUE(file->may_publish(53, "udp"));
}

TEST(ComposeFile, MergeKeysAndAliasesAreFollowed) {
  auto file = parse_compose_file(R"(
x-base: &base
  image: base:1
  ports: ["80:80"]
services:
  one:
    <<: *base
  two:
    <<: [*base]
    image: other:2
)",
                                 "c.yaml");
  ASSERT_TRUE(file) << file.error().what();
  EXPECT_THAT(file->images(), ElementsAre("base:1", "other:2"));
  EXPECT_EQ(file->services[1].ports.size(), 1U);
}

TEST(ComposeFile, ErrorsSayWhere) {
  EXPECT_THAT(error_of("services:\n  web:\n    image: [a\n"), StartsWith("c.yaml:"));
  EXPECT_THAT(error_of("services:\n  web:\n   - a\n"), StartsWith("c.yaml:3:4: service \"web\""));
  EXPECT_THAT(error_of("services:\n\tweb: 1\n"), StartsWith("c.yaml:2:"));
  EXPECT_THAT(error_of("services:\n  web:\n    image: a\n  web:\n    image: b\n"),
              AllOf(StartsWith("c.yaml:4:3:"), HasSubstr("\"web\" appears twice")));
}

TEST(ComposeFile, RefusesOtherShapes) {
  for (const char* bad :
       {"", "just text", "- a\n- b\n", "version: '3'\n", "services:\n", "services: {}\n", "services: [a]\n",
        "services: {web: {}}\n", "services: {web: {image: [a]}}\n",
        "services: {web: {image: a, ports: 80}}\n", "services: {web: {image: a, ports: [[1]]}}\n",
        "services: {web: {image: a}}\n---\nservices: {b: {image: c}}\n", "services: {[a]: {image: c}}\n",
        "services: &a {web: *a}\n", "services: *nowhere\n"}) {
    error_of(bad);
  }
  error_of(std::string_view("services: {web: {image: a}}\0", 28));
}

TEST(ComposeFile, AliasBombIsRefused) {
  std::string bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n";
  for (int i = 1; i < 10; ++i) {
    bomb += "a" + std::to_string(i) + ": &a" + std::to_string(i) + " [";
    for (int j = 0; j < 10; ++j) {
      bomb += (j == 0 ? "*a" : ", *a") + std::to_string(i - 1);
    }
    bomb += "]\n";
  }
  EXPECT_THAT(error_of(bomb + "services: {web: {image: a}}\n"), HasSubstr("aliases"));
}

TEST(ComposeFile, DeepNestingAndLargeFilesAreRefused) {
  error_of("services: " + std::string(100'000, '['));
  EXPECT_THAT(error_of(std::string(app::k_max_compose_file + 1, '#')), HasSubstr("at most"));
}

TEST(ComposeFile, WarnsAboutWhatDoesNotTravel) {
  auto file = parse_compose_file(
      "services: {web: {image: a, build: ., env_file: .env, volumes: ['./data:/data', 'named:/x']}}",
      "c.yaml");
  ASSERT_TRUE(file) << file.error().what();
  EXPECT_THAT(file->warnings, ElementsAre(HasSubstr("build"), HasSubstr("env_file"), HasSubstr("./data")));
}
