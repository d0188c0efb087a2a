// A release server that says what a test wants, byte by byte: GitHub's API and the files, and every way to
// lie.
#pragma once

#include <archive.h>
#include <archive_entry.h>
#include <poll.h>
#include <sys/socket.h>

#include <atomic>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "base/fd.h"
#include "base/format.h"
#include "crypto/hash.h"
#include "net/listen.h"

namespace dstack::host::test {

// One connection, one request, one answer: plain bytes.
class ReleaseServer {
 public:
  struct Asked {
    std::string target;                          // path and query
    std::map<std::string, std::string> headers;  // names in lower case
  };
  // The whole answer, head included. `cut` bytes of it are sent; the connection is closed after them.
  struct Answer {
    std::string bytes;
    std::size_t cut = std::string::npos;
  };
  using Handler = std::function<Answer(const Asked&)>;

  explicit ReleaseServer(Handler handler) : m_handler(std::move(handler)) {
    auto socket = net::listen_on_tcp("127.0.0.1", 0);
    m_listener = std::move(socket->fd);
    m_port = socket->port;
    m_thread = std::jthread([this](const std::stop_token& stop) { run(stop); });
  }
  ~ReleaseServer() {
    m_thread.request_stop();
    m_thread.join();
  }

  std::string url(const std::string& path = "") const {
    return base::format("http://127.0.0.1:{}{}", m_port, path);
  }
  std::vector<Asked> asked() const {
    const std::lock_guard lock(m_mutex);
    return m_asked;
  }

 private:
  void run(const std::stop_token& stop) {
    while (!stop.stop_requested()) {
      pollfd entry{m_listener.get(), POLLIN, 0};
      if (::poll(&entry, 1, 20) <= 0) {
        continue;
      }
      const base::Fd fd(::accept4(m_listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
      std::string text;
      char buffer[4096];
      while (fd && text.find("\r\n\r\n") == std::string::npos) {
        const auto n = ::recv(fd.get(), buffer, sizeof buffer, 0);
        if (n <= 0) {
          break;
        }
        text.append(buffer, static_cast<std::size_t>(n));
      }
      const auto request = parse(text);
      {
        const std::lock_guard lock(m_mutex);
        m_asked.push_back(request);
      }
      auto answer = m_handler(request);
      std::string_view left = std::string_view(answer.bytes).substr(0, answer.cut);
      while (!left.empty()) {
        const auto n = ::send(fd.get(), left.data(), left.size(), MSG_NOSIGNAL);
        if (n <= 0) {
          break;
        }
        left.remove_prefix(static_cast<std::size_t>(n));
      }
      ::shutdown(fd.get(), SHUT_WR);
    }
  }

  static Asked parse(const std::string& text) {
    Asked out;
    const auto first = text.find(' ');
    out.target = text.substr(first + 1, text.find(' ', first + 1) - first - 1);
    for (auto at = text.find("\r\n"); at != std::string::npos; at = text.find("\r\n", at + 2)) {
      const auto colon = text.find(':', at);
      const auto end = text.find("\r\n", at + 2);
      if (colon == std::string::npos || end == std::string::npos || colon > end) {
        break;
      }
      auto name = text.substr(at + 2, colon - at - 2);
      for (auto& c : name) {
        c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
      }
      out.headers[name] = text.substr(colon + 2, end - colon - 2);
    }
    return out;
  }

  Handler m_handler;
  mutable std::mutex m_mutex;
  std::vector<Asked> m_asked;
  base::Fd m_listener;
  std::uint16_t m_port = 0;
  std::jthread m_thread;
};

inline std::string reply(int status, const std::string& body, const std::string& headers = "") {
  return base::format("HTTP/1.1 {} X\r\nContent-Length: {}\r\n{}Connection: close\r\n\r\n{}", status,
                      body.size(), headers, body);
}

// What an honest server with one strong ETag answers to a request for `body`.
inline std::string serve_file(const ReleaseServer::Asked& asked, const std::string& body,
                              const std::string& etag) {
  const auto head = base::format("ETag: \"{}\"\r\n", etag);
  const auto range = asked.headers.find("range");
  const auto if_range = asked.headers.find("if-range");
  if (range == asked.headers.end() ||
      (if_range != asked.headers.end() && if_range->second != "\"" + etag + "\"")) {
    return reply(200, body, head);
  }
  const auto first = std::stoul(range->second.substr(6));
  if (first >= body.size()) {
    return reply(416, "", head);
  }
  return reply(206, body.substr(first),
               head + base::format("Content-Range: bytes {}-{}/{}\r\n", first, body.size() - 1, body.size()));
}

struct Member {
  std::string path;
  std::string data;
  unsigned type = AE_IFREG;
  unsigned mode = 0644;
  std::string link;       // target of a symbolic link
  std::string hard_link;  // target of a hard link
};

inline std::string make_tar(const std::vector<Member>& members, bool gzip = true) {
  struct archive* a = ::archive_write_new();
  ::archive_write_set_format_pax_restricted(a);
  if (gzip) {
    ::archive_write_add_filter_gzip(a);
  }
  ::archive_write_set_bytes_in_last_block(a, 1);
  std::size_t room = 64 * 1024;
  for (const auto& member : members) {
    room += member.data.size() + 4096;
  }
  std::string out(room, '\0');
  std::size_t used = 0;
  ::archive_write_open_memory(a, out.data(), out.size(), &used);
  for (const auto& member : members) {
    struct archive_entry* entry = ::archive_entry_new();
    ::archive_entry_set_pathname(entry, member.path.c_str());
    ::archive_entry_set_filetype(entry, member.type);
    ::archive_entry_set_perm(entry, static_cast<mode_t>(member.mode));
    ::archive_entry_set_size(entry, static_cast<la_int64_t>(member.data.size()));
    if (!member.link.empty()) {
      ::archive_entry_set_symlink(entry, member.link.c_str());
    }
    if (!member.hard_link.empty()) {
      ::archive_entry_set_hardlink(entry, member.hard_link.c_str());
    }
    ::archive_write_header(a, entry);
    if (!member.data.empty()) {
      ::archive_write_data(a, member.data.data(), member.data.size());
    }
    ::archive_entry_free(entry);
  }
  ::archive_write_close(a);
  ::archive_write_free(a);
  out.resize(used);
  return out;
}

// The files of a small image that is in order.
inline std::map<std::string, std::string> image_files(const std::string& version = "0.6.0") {
  std::map<std::string, std::string> files = {
      {"metadata.json",
       base::format(
           R"({{"kernel":"bzImage","initrd":"initramfs.cpio.gz","rootfs":"rootfs.img.parted.verity",)"
           R"("cmdline":"x","rootfs_hash":"00","version":"{}"}})",
           version)},
      {"bzImage", "kernel"},
      {"initramfs.cpio.gz", std::string(300'000, 'i')},
      {"rootfs.img.parted.verity", std::string(200'000, 'r')},
      {"ovmf.fd", "firmware"}};
  std::string sums;
  for (const auto& [name, data] : files) {
    if (name != "rootfs.img.parted.verity") {
      sums += base::format("{}  {}\n", crypto::sha256_hex(data), name);
    }
  }
  files["sha256sum.txt"] = sums;
  files["digest.txt"] = crypto::sha256_hex(sums) + "\n";
  return files;
}

inline std::string image_tar(const std::map<std::string, std::string>& files,
                             const std::string& name = "dstack-0.6.0", const std::string& prefix = "") {
  std::vector<Member> members = {{prefix + name + "/", "", AE_IFDIR, 0755, "", ""}};
  for (const auto& [file, data] : files) {
    members.push_back({prefix + name + "/" + file, data, AE_IFREG, 0644, "", ""});
  }
  return make_tar(members);
}

inline std::string release_json(const std::string& tag, const std::string& asset, const std::string& url,
                                const std::string& digest) {
  return base::format(R"({{"tag_name":"{}","assets":[{{"name":"{}","browser_download_url":"{}"{}}}]}})", tag,
                      asset, url, digest.empty() ? "" : base::format(R"(,"digest":"{}")", digest));
}

}  // namespace dstack::host::test
