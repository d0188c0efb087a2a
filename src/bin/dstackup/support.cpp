#include <unistd.h>

#include <ctime>
#include <nlohmann/json.hpp>
#include <ostream>

#include "base/format.h"
#include "base/log.h"
#include "base/process.h"
#include "cli/table.h"
#include "context.h"
#include "host/support.h"
#include "verbs.h"

namespace dstack::dstackup {

using base::Result;

namespace {

struct Flags {
  std::optional<std::string> prefix;
  std::optional<std::string> output;
  bool json = false;
};

// What this program's own verb says, also when it finds fault. It runs by itself: whatever it does on a
// broken installation, the archive is made.
void add_verb_output(std::vector<host::SupportItem>& items, const std::string& verb,
                     const std::optional<std::string>& prefix) {
  base::Command command;
  std::error_code error;
  command.argv = {std::filesystem::read_symlink("/proc/self/exe", error).string(), verb};
  if (prefix) {
    command.argv.insert(command.argv.end(), {"--prefix", *prefix});
  }
  command.timeout = std::chrono::seconds(60);
  const auto output = base::run(command);
  items.push_back(
      {verb + ".txt", output ? base::format("{}{}exit code {}\n", output->out, output->err, output->exit_code)
                             : output.error().what() + "\n"});
}

std::string stamp(std::time_t now) {
  std::tm parts = {};
  ::gmtime_r(&now, &parts);
  return base::format("{:04}{:02}{:02}-{:02}{:02}{:02}", parts.tm_year + 1900, parts.tm_mon + 1,
                      parts.tm_mday, parts.tm_hour, parts.tm_min, parts.tm_sec);
}

Result<int> support(const Flags& flags, const cli::Streams& streams) {
  DS_TRY(const auto layout, host::Layout::make(flags.prefix));
  DS_TRY(auto instance, host::instance_name(std::nullopt, flags.prefix));
  if (const auto state = host::load_state(layout.state_file()); state && *state) {
    instance = (*state)->instance;
  }
  const auto now = std::time(nullptr);
  const auto name = "dstack-support-" + stamp(now);
  const std::filesystem::path path = flags.output.value_or(name + ".tar.gz");
  if (::geteuid() != 0) {
    cli::print_warning(streams, "not run as root: what only root may read is missing");
  }
  std::vector<host::SupportItem> own;
  add_verb_output(own, "doctor", flags.prefix);
  add_verb_output(own, "status", flags.prefix);
  const auto items = host::collect_support(layout, instance, std::move(own));
  DS_CHECK(host::write_support_archive(path, name, items, now));
  if (flags.json) {
    nlohmann::ordered_json json = {{"file", path.string()}, {"entries", nlohmann::ordered_json::array()}};
    for (const auto& item : items) {
      json["entries"].push_back({{"name", item.name}, {"size", item.text.size()}});
    }
    streams.out << json.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) << '\n';
    return cli::k_exit_ok;
  }
  cli::Table table({{"SIZE"}, {"FILE"}});
  for (const auto& item : items) {
    table.add({std::to_string(item.text.size()), item.name});
  }
  streams.out
      << table.text() << '\n'
      << "written to " << path.string()
      << "; tokens, seeds and keys are taken out, but names, addresses and what apps log are in it: look "
         "before you send it\n";
  return cli::k_exit_ok;
}

}  // namespace

void add_support(cli::Command& program, const cli::Streams& streams) {
  auto flags = std::make_shared<Flags>();
  auto& verb = program.verb("support", "pack what a helper needs to see into one archive, without secrets");
  verb.option("--output", flags->output, "the archive to write", "dstack-support-TIME.tar.gz, here");
  verb.values("--output", cli::Values::file());
  verb.option("--prefix", flags->prefix, "the installation below this directory");
  verb.flag("-j,--json", flags->json, "print what is inside as JSON");
  verb.examples("dstackup support\ndstackup support --output /tmp/report.tar.gz --prefix /opt/dstack-test");
  verb.action(
      [flags, &streams] { return report(streams, flags->json, [&] { return support(*flags, streams); }); });
}

}  // namespace dstack::dstackup
