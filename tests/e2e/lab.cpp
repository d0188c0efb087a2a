#include "e2e/lab.h"

#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <iostream>
#include <random>

#include "base/fs.h"
#include "net/client.h"

namespace dstack::e2e {

namespace fs = std::filesystem;

Lab Lab::open() {
  const char* directory = std::getenv("DSTACK_E2E_DIR");
  Lab lab;
  lab.directory = directory != nullptr ? directory : "/tmp/dstack-e2e";
  lab.prefix = lab.directory / "prefix";
  lab.programs = DSTACK_PROGRAMS_DIR;
  lab.source = DSTACK_SOURCE_DIR;
  return lab;
}

base::Output Lab::run(std::vector<std::string> argv, std::chrono::seconds limit) const {
  argv[0] = (programs / argv[0]).string();
  argv.push_back("--prefix");
  argv.push_back(prefix.string());
  std::cout << "$";
  for (const auto& word : argv) {
    std::cout << ' ' << word;
  }
  std::cout << std::endl;
  base::Command command{.argv = argv, .timeout = limit};
  command.on_line = [](std::string_view line) { std::cout << "  | " << line << std::endl; };
  auto output = base::run(command);
  if (!output) {
    std::cout << "  => " << output.error().what() << std::endl;
    return base::Output{.exit_code = -1, .out = "", .err = output.error().what()};
  }
  std::cout << "  => exit " << output->exit_code << std::endl;
  return *output;
}

HttpAnswer get(std::uint16_t port, std::chrono::milliseconds limit) {
  net::Endpoint endpoint;
  endpoint.kind = net::Endpoint::Kind::tcp;
  endpoint.host = "127.0.0.1";
  endpoint.port = port;
  const net::Client client(endpoint, {.connect_timeout = limit, .timeout = limit});
  const auto response = client.send({});
  if (!response) {
    return {};
  }
  return {response->status, response->body};
}

std::uint16_t free_port() {
  std::mt19937 random(std::random_device{}());
  std::uniform_int_distribution<int> pick(12000, 19999);
  while (true) {
    const auto port = static_cast<std::uint16_t>(pick(random));
    const base::Fd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (::bind(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) == 0) {
      return port;
    }
  }
}

std::vector<std::string> tree(const fs::path& root) {
  std::vector<std::string> out;
  std::error_code ignored;
  for (const auto& entry :
       fs::recursive_directory_iterator(root, fs::directory_options::skip_permission_denied, ignored)) {
    out.push_back(entry.path().string());
  }
  std::sort(out.begin(), out.end());
  return out;
}

std::vector<std::string> processes_naming(const std::string& needle) {
  std::vector<std::string> out;
  for (const auto& entry : fs::directory_iterator("/proc")) {
    const auto pid = entry.path().filename().string();
    if (pid.find_first_not_of("0123456789") != std::string::npos || pid == std::to_string(::getpid())) {
      continue;
    }
    auto line = base::read_file(entry.path() / "cmdline", 1 << 20);
    if (!line) {
      continue;
    }
    std::replace(line->begin(), line->end(), '\0', ' ');
    if (line->find(needle) != std::string::npos && line->find("e2e_test") == std::string::npos) {
      out.push_back(pid + " " + *line);
    }
  }
  return out;
}

}  // namespace dstack::e2e
