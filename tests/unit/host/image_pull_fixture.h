// Fetching an image from a server that is honest but for what a test replaces.
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "base/format.h"
#include "base/fs.h"
#include "crypto/hash.h"
#include "host/image_pull.h"
#include "unit/host/release_server.h"
#include "unit/temp_dir.h"

namespace dstack::host::test {

using Answer = ReleaseServer::Answer;
using Asked = ReleaseServer::Asked;

constexpr const char* k_tag_path = "/repos/Dstack-TEE/dstack/releases/tags/guest-os-v0.6.0";
constexpr const char* k_asset = "dstack-0.6.0.tar.gz";

class ImagePull : public testing::Test {
 protected:
  ImagePull() {
    m_request.images = m_dir.path();
    m_request.api = m_server.url("/repos");
    m_request.version = "0.6.0";
    m_request.retries = 0;
    m_request.pause = std::chrono::milliseconds(0);
    m_request.fetch.timeout = std::chrono::seconds(2);
    m_request.report = [this](std::string_view line) { m_report += std::string(line) + "\n"; };
    m_request.warn = m_request.report;
  }

  Answer answer(const Asked& asked) {
    if (asked.target == "/files/" + std::string(k_asset)) {
      return m_file ? m_file(asked) : Answer{serve_file(asked, m_tar, m_etag)};
    }
    if (m_api) {
      return m_api(asked);
    }
    if (asked.target == k_tag_path) {
      return {reply(200, json("guest-os-v0.6.0", digest()))};
    }
    if (asked.target == "/repos/Dstack-TEE/dstack/releases?per_page=100") {
      return {reply(200, "[" + json("guest-os-v0.6.0", digest()) + "]")};
    }
    return {reply(404, "{}")};
  }
  std::string json(const std::string& tag, const std::string& digest) const {
    return release_json(tag, k_asset, m_server.url("/files/" + std::string(k_asset)), digest);
  }
  std::string digest() const { return "sha256:" + crypto::sha256_hex(m_tar); }

  std::string failure() {
    const auto pulled = pull_image(m_request);
    EXPECT_FALSE(std::filesystem::exists(m_dir / "dstack-0.6.0"));
    EXPECT_FALSE(std::filesystem::exists(m_dir / base::format(".{}.staging", k_asset)));
    return pulled ? "success" : pulled.error().what();
  }
  bool partial_left() const { return std::filesystem::exists(m_dir / base::format(".{}.partial", k_asset)); }
  // What a broken-off download leaves.
  void leave_partial(const std::string& bytes, const std::string& note) const {
    std::ofstream(m_dir / base::format(".{}.partial", k_asset)) << bytes;
    std::ofstream(m_dir / base::format(".{}.partial.json", k_asset)) << note;
  }
  std::string good_note() const {
    return base::format(R"({{"sha256":"{}","url":"{}","etag":"\"{}\"","size":{}}})",
                        crypto::sha256_hex(m_tar), m_server.url("/files/" + std::string(k_asset)), m_etag,
                        m_tar.size());
  }
  std::vector<std::string> leftovers() const {
    std::vector<std::string> out;
    for (const auto& entry : std::filesystem::directory_iterator(m_dir.path())) {
      out.push_back(entry.path().filename().string());
    }
    return out;
  }

  dstack::test::TempDir m_dir;
  std::map<std::string, std::string> m_files = image_files();
  std::string m_tar = image_tar(m_files);
  std::string m_etag = "one";
  std::function<Answer(const Asked&)> m_api;
  std::function<Answer(const Asked&)> m_file;
  std::string m_report;
  ReleaseServer m_server{[this](const Asked& asked) { return answer(asked); }};
  PullImage m_request;
};

}  // namespace dstack::host::test
