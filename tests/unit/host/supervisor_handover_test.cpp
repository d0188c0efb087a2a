#include "host/supervisor_handover.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>

namespace dstack::host {
namespace {

using namespace std::chrono_literals;

SupervisorMemory sample() {
  const ServiceMemory::Clock::time_point some(1234567890123456789ns);
  ServiceMemory service;
  service.spec.name = "dstack-vmm";
  service.spec.argv = {"/x/dstack-vmm", "-c", "a b"};
  service.spec.environment = {"A=1"};
  service.spec.memory_max = 1ULL << 40U;
  service.spec.tasks_max = 7;
  service.spec.children_outlive = true;
  service.spec.stop_timeout = 120s;
  service.cookie = "DSTACK_SUPERVISED=00";
  service.notify_fd = 9;
  service.pid = 77;
  service.state = ServiceState::stopping;
  service.since_unix = 1'700'000'000;
  service.entered = some;
  service.deadline = some + 5s;
  service.next = service.spec;
  service.next->argv.emplace_back("x");
  service.commanded = true;
  service.timed_out = true;
  service.text = "listening";
  service.error_number = 98;
  service.result = "exit code 3";
  service.restarts = 4;
  service.delay = 8s;
  service.starts = {some - 1s, some};
  SupervisorMemory memory;
  memory.options.run = "/run/dstack";
  memory.options.logs = "/var/lib/dstack/log";
  memory.options.cgroup_root = "/sys/fs/cgroup/dstack";
  memory.options.log_limit = 5;
  memory.options.rotation_period = 7ms;
  memory.control_fd = 4;
  memory.services = {service};
  memory.connections = {{11, "{\"verb\":\"ping\"}\n", true}};
  return memory;
}

TEST(SupervisorHandover, NothingIsLost) {
  const auto text = to_text(sample());
  const auto read = parse_memory(text);
  ASSERT_TRUE(read) << read.error().what();
  EXPECT_EQ(to_text(*read), text);
  const auto& service = read->services.at(0);
  EXPECT_EQ(service.deadline, sample().services[0].deadline);
  EXPECT_EQ(service.starts, sample().services[0].starts);
  EXPECT_EQ(service.next->argv.size(), 4U);
  EXPECT_EQ(service.spec.memory_max, 1ULL << 40U);
  EXPECT_EQ(read->options.rotation_period, 7ms);
  EXPECT_EQ(read->connections.at(0).input, "{\"verb\":\"ping\"}\n");
}

TEST(SupervisorHandover, WhatIsNotAMemoryIsRefused) {
  const auto text = to_text(sample());
  EXPECT_FALSE(parse_memory(""));
  EXPECT_FALSE(parse_memory("[]"));
  EXPECT_FALSE(parse_memory("{\"format\":1}"));
  for (std::size_t length = 0; length < text.size(); length += 7) {
    EXPECT_FALSE(parse_memory(std::string_view(text).substr(0, length))) << length;
  }
  auto other = text;
  other.replace(other.find("\"format\":1"), 10, "\"format\":2");
  EXPECT_NE(parse_memory(other).error().what().find("format 2"), std::string::npos);
  other = text;
  other.replace(other.find("\"state\":4"), 9, "\"state\":9");
  EXPECT_FALSE(parse_memory(other));
}

TEST(SupervisorHandover, AFailedExecChangesNothing) {
  base::Fd control(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  SupervisorMemory memory;
  memory.control_fd = control.get();
  const auto error = become("/nonexistent/dstackup", memory);
  EXPECT_NE(error.what().find("/nonexistent/dstackup"), std::string::npos);
  EXPECT_EQ(::fcntl(control.get(), F_GETFD), FD_CLOEXEC);
}

TEST(SupervisorHandover, DescriptorsThatAreNotThereAreNoticed) {
  auto memory = sample();
  memory.services.clear();
  memory.connections.clear();
  memory.control_fd = 900;
  const auto text = to_text(memory);
  base::Fd file(::memfd_create("test", 0));
  ASSERT_EQ(::write(file.get(), text.data(), text.size()), static_cast<ssize_t>(text.size()));
  EXPECT_FALSE(take_memory(std::move(file)));
  EXPECT_FALSE(take_memory(base::Fd(::open("/dev/null", O_RDONLY))));
}

}  // namespace
}  // namespace dstack::host
