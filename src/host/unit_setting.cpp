#include "host/unit_setting.h"

#include <systemd/sd-bus.h>

#include <cerrno>

#include "base/format.h"
#include "host/unit_file.h"

namespace dstack::host {

using base::Result;

namespace {

std::string without_expansion(const std::string& word) {
  std::string out;
  for (const char c : word) {
    out += c == '$' ? std::string("$$") : std::string(1, c);
  }
  return out;
}

// Appends values of "a(sv)". The first failure sticks.
class Writer {
 public:
  explicit Writer(sd_bus_message* message) : m_message(message) {}
  int result() const { return m_result; }
  void keep(int r) {
    if (r < 0 && m_result >= 0) {
      m_result = r;
    }
  }

  void property(const std::string& name, const UnitSetting::Value& value) {
    m_name = name;
    std::visit([this](const auto& v) { write(v); }, value);
  }

 private:
  void write(const std::string& value) { one("s", value.c_str()); }
  void write(bool value) { one("b", static_cast<int>(value)); }
  void write(std::uint64_t value) { one("t", value); }
  void write(const UnitSetting::Microseconds& value) { one("t", value.value); }
  void write(const UnitSetting::Mode& value) { one("u", value.value); }
  void write(const UnitSetting::Eperm& /*value*/) { one("i", EPERM); }
  void write(const UnitSetting::Descriptor& value) { one("h", value.fd); }
  void write(const UnitSetting::None& /*value*/) { one("t", std::uint64_t{0}); }
  void write(const UnitSetting::Words& value) {
    open("as");
    words(value.words);
    shut();
  }
  void write(const UnitSetting::Devices& value) {
    open("a(ss)");
    keep(sd_bus_message_open_container(m_message, 'a', "(ss)"));
    for (const auto& node : value.nodes) {
      keep(sd_bus_message_append(m_message, "(ss)", node.c_str(), "rw"));
    }
    keep(sd_bus_message_close_container(m_message));
    shut();
  }
  void write(const UnitSetting::Binds& value) {
    open("a(ssbt)");
    keep(sd_bus_message_open_container(m_message, 'a', "(ssbt)"));
    for (const auto& path : value.paths) {
      keep(sd_bus_message_append(m_message, "(ssbt)", path.c_str(), path.c_str(), 1, std::uint64_t{0}));
    }
    keep(sd_bus_message_close_container(m_message));
    shut();
  }
  void write(const UnitSetting::SystemCalls& value) {
    filter(true, value.allowed);
    // systemd takes the second one off the first.
    filter(false, value.denied);
  }
  void write(const UnitSetting::Families& value) { filter(true, value.allowed); }
  // Not ExecStartEx, which could turn off the expansion of $NAME: systemd 252 writes it down in a way that it
  // does not read again at the next reload.
  void write(const UnitSetting::Exec& value) {
    open("a(sasb)");
    keep(sd_bus_message_open_container(m_message, 'a', "(sasb)"));
    keep(sd_bus_message_open_container(m_message, 'r', "sasb"));
    keep(sd_bus_message_append(m_message, "s", value.argv.front().c_str()));
    std::vector<std::string> argv;
    argv.reserve(value.argv.size());
    for (const auto& word : value.argv) {
      argv.push_back(without_expansion(word));
    }
    words(argv);
    keep(sd_bus_message_append(m_message, "b", 0));
    keep(sd_bus_message_close_container(m_message));
    keep(sd_bus_message_close_container(m_message));
    shut();
  }

  void filter(bool allow, const std::vector<std::string>& groups) {
    open("(bas)");
    keep(sd_bus_message_open_container(m_message, 'r', "bas"));
    keep(sd_bus_message_append(m_message, "b", static_cast<int>(allow)));
    words(groups);
    keep(sd_bus_message_close_container(m_message));
    shut();
  }
  void words(const std::vector<std::string>& list) {
    keep(sd_bus_message_open_container(m_message, 'a', "s"));
    for (const auto& word : list) {
      keep(sd_bus_message_append(m_message, "s", word.c_str()));
    }
    keep(sd_bus_message_close_container(m_message));
  }
  template <class T>
  void one(const char* type, T value) {
    keep(sd_bus_message_append(m_message, "(sv)", m_name.c_str(), type, value));
  }
  void open(const char* type) {
    keep(sd_bus_message_open_container(m_message, 'r', "sv"));
    keep(sd_bus_message_append(m_message, "s", m_name.c_str()));
    keep(sd_bus_message_open_container(m_message, 'v', type));
  }
  void shut() {
    keep(sd_bus_message_close_container(m_message));
    keep(sd_bus_message_close_container(m_message));
  }

  sd_bus_message* m_message;
  std::string m_name;
  int m_result = 0;
};

// One line per call; the texts of a unit file.
struct Renderer {
  std::string key;
  std::string out = {};

  Result<> line(const std::string& value) {
    out += key + "=" + value + "\n";
    return {};
  }
  static std::string joined(const std::vector<std::string>& words) {
    std::string text;
    for (const auto& word : words) {
      text += (text.empty() ? "" : " ") + word;
    }
    return text;
  }

  Result<> operator()(const std::string& value) {
    DS_TRY(const auto text, plain_unit_value(value));
    return line(text);
  }
  Result<> operator()(bool value) { return line(value ? "yes" : "no"); }
  Result<> operator()(std::uint64_t value) { return line(std::to_string(value)); }
  Result<> operator()(const UnitSetting::Microseconds& value) {
    return line(base::format("{}us", value.value));
  }
  Result<> operator()(const UnitSetting::Mode& value) { return line(base::format("{:04o}", value.value)); }
  Result<> operator()(const UnitSetting::Eperm& /*value*/) { return line("EPERM"); }
  Result<> operator()(const UnitSetting::Descriptor& /*value*/) { return {}; }
  Result<> operator()(const UnitSetting::None& /*value*/) {
    return line(key == "RestrictNamespaces" ? "yes" : "");
  }
  Result<> operator()(const UnitSetting::Words& value) {
    for (const auto& word : value.words) {
      DS_TRY(const auto text, quote_unit_word(word));
      DS_CHECK(line(text));
    }
    return {};
  }
  Result<> operator()(const UnitSetting::Devices& value) {
    for (const auto& node : value.nodes) {
      DS_CHECK(line(node + " rw"));
    }
    return {};
  }
  Result<> operator()(const UnitSetting::Binds& value) {
    for (const auto& path : value.paths) {
      DS_TRY(const auto text, quote_unit_word("-" + path));
      DS_CHECK(line(text));
    }
    return {};
  }
  Result<> operator()(const UnitSetting::SystemCalls& value) {
    DS_CHECK(line(joined(value.allowed)));
    return line("~" + joined(value.denied));
  }
  Result<> operator()(const UnitSetting::Families& value) { return line(joined(value.allowed)); }
  Result<> operator()(const UnitSetting::Exec& value) {
    std::string text;
    for (const auto& word : value.argv) {
      DS_TRY(const auto quoted, quote_unit_word((text.empty() ? ":" : "") + word));
      text += (text.empty() ? "" : " ") + quoted;
    }
    return line(text);
  }
};

}  // namespace

int append_settings(sd_bus_message* message, const std::vector<UnitSetting>& settings) {
  Writer writer(message);
  writer.keep(sd_bus_message_open_container(message, 'a', "(sv)"));
  for (const auto& setting : settings) {
    writer.property(setting.name, setting.value);
  }
  writer.keep(sd_bus_message_close_container(message));
  return writer.result();
}

Result<std::string> render_settings(const std::vector<UnitSetting>& settings) {
  std::string out;
  for (const auto& setting : settings) {
    if (setting.in_file) {
      Renderer renderer{setting.key.empty() ? setting.name : setting.key};
      DS_CHECK(std::visit([&](const auto& value) { return renderer(value); }, setting.value));
      out += renderer.out;
    }
  }
  return out;
}

}  // namespace dstack::host
