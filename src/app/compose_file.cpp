#include "app/compose_file.h"

#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <charconv>

#include "app/yaml_check.h"
#include "base/format.h"
#include "base/log.h"

namespace dstack::app {
namespace {

using base::Code;

constexpr std::size_t k_max_nodes = 100'000;
constexpr const char* k_fix =
    "correct the compose file; \"docker compose config\" shows what compose makes of it";

struct Refused {
  YAML::Mark mark;
  std::string why;
};

// A member of a mapping, its own or one that a merge key ("<<") brings in.
YAML::Node member(const YAML::Node& mapping, const std::string& key, int depth = 0) {
  if (!mapping.IsMap() || depth > 8) {
    return YAML::Node(YAML::NodeType::Undefined);
  }
  if (YAML::Node own = mapping[key]; own.IsDefined()) {
    return own;
  }
  const YAML::Node merge = mapping["<<"];
  if (merge.IsDefined() && merge.IsMap()) {
    return member(merge, key, depth + 1);
  }
  if (merge.IsDefined() && merge.IsSequence()) {
    for (const auto& part : merge) {
      if (YAML::Node found = member(part, key, depth + 1); found.IsDefined()) {
        return found;
      }
    }
  }
  return YAML::Node(YAML::NodeType::Undefined);
}

bool present(const YAML::Node& node) {
  return node.IsDefined() && !node.IsNull();
}

std::optional<std::uint16_t> parse_port(std::string_view text) {
  std::uint16_t port = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), port);
  if (error != std::errc{} || end != text.data() + text.size() || port == 0) {
    return std::nullopt;
  }
  return port;
}

// "[[IP:]PUBLISHED:]TARGET[/PROTOCOL]"; nullopt for ranges and variables.
std::optional<ComposePort> parse_short_port(std::string_view text) {
  ComposePort port;
  if (const auto slash = text.rfind('/'); slash != std::string_view::npos) {
    port.protocol = text.substr(slash + 1);
    text = text.substr(0, slash);
  }
  const auto colon = text.rfind(':');
  const auto target = parse_port(colon == std::string_view::npos ? text : text.substr(colon + 1));
  if (!target) {
    return std::nullopt;
  }
  port.target = *target;
  if (colon == std::string_view::npos) {
    return port;
  }
  text = text.substr(0, colon);
  if (const auto address = text.rfind(':'); address != std::string_view::npos) {
    text = text.substr(address + 1);
  }
  if (text.empty()) {
    return port;
  }
  port.published = parse_port(text);
  return port.published ? std::optional(port) : std::nullopt;
}

std::optional<ComposePort> parse_long_port(const YAML::Node& node) {
  ComposePort port;
  const YAML::Node target = member(node, "target");
  if (!present(target) || !target.IsScalar()) {
    throw Refused{node.Mark(), "a port needs a target"};
  }
  const auto number = parse_port(target.Scalar());
  if (!number) {
    return std::nullopt;
  }
  port.target = *number;
  if (const YAML::Node protocol = member(node, "protocol"); present(protocol) && protocol.IsScalar()) {
    port.protocol = protocol.Scalar();
  }
  if (const YAML::Node published = member(node, "published"); present(published) && published.IsScalar()) {
    port.published = parse_port(published.Scalar());
    if (!port.published) {
      return std::nullopt;
    }
  }
  return port;
}

void read_ports(const YAML::Node& ports, ComposeService& service, ComposeFile& file) {
  if (!present(ports)) {
    return;
  }
  if (!ports.IsSequence()) {
    throw Refused{ports.Mark(), "ports must be a list"};
  }
  for (const auto& entry : ports) {
    std::optional<ComposePort> port;
    if (entry.IsScalar()) {
      port = parse_short_port(entry.Scalar());
    } else if (entry.IsMap()) {
      port = parse_long_port(entry);
    } else {
      throw Refused{entry.Mark(), "a port must be text such as \"80:80\" or a mapping"};
    }
    if (port) {
      service.ports.push_back(*port);
    } else {
      file.has_unknown_ports = true;
    }
  }
}

void warn_about(const YAML::Node& node, const ComposeService& service, ComposeFile& file) {
  const auto warn = [&](std::string_view what) {
    file.warnings.push_back(base::format("service {}: {}", base::escape_control(service.name), what));
  };
  if (service.builds) {
    warn("\"build\" cannot work in the VM, where the sources are not; the image must exist already");
  }
  if (present(member(node, "env_file"))) {
    warn("\"env_file\" names a file that does not travel into the VM");
  }
  const YAML::Node volumes = member(node, "volumes");
  if (present(volumes) && volumes.IsSequence()) {
    for (const auto& volume : volumes) {
      const YAML::Node source = volume.IsMap() ? member(volume, "source") : YAML::Node(volume);
      if (present(source) && source.IsScalar() && source.Scalar().starts_with(".")) {
        warn(base::format("the relative path in volume \"{}\" does not travel into the VM",
                          base::escape_control(source.Scalar().substr(0, 80))));
      }
    }
  }
}

ComposeService read_service(const std::string& name, const YAML::Node& node, ComposeFile& file) {
  if (!node.IsMap()) {
    throw Refused{node.Mark(), base::format("service \"{}\" must be a mapping", base::escape_control(name))};
  }
  ComposeService service;
  service.name = name;
  if (const YAML::Node image = member(node, "image"); present(image)) {
    if (!image.IsScalar() || image.Scalar().empty()) {
      throw Refused{image.Mark(), "image must be the name of a container image"};
    }
    service.image = image.Scalar();
  }
  service.builds = present(member(node, "build"));
  if (service.image.empty() && !service.builds && !present(member(node, "extends"))) {
    throw Refused{node.Mark(), base::format("service \"{}\" has no image", base::escape_control(name))};
  }
  read_ports(member(node, "ports"), service, file);
  if (present(member(node, "network_mode"))) {
    file.has_unknown_ports = true;
  }
  warn_about(node, service, file);
  return service;
}

ComposeFile read_root(const YAML::Node& root) {
  if (!root.IsMap()) {
    throw Refused{root.Mark(), "a compose file must be a mapping with the key \"services\""};
  }
  const YAML::Node services = root["services"];
  if (!present(services)) {
    throw Refused{root.Mark(), "the key \"services\" is missing"};
  }
  if (!services.IsMap() || services.size() == 0) {
    throw Refused{services.Mark(), "services must be a mapping with at least one service"};
  }
  ComposeFile file;
  for (const auto& entry : services) {
    if (entry.first.Scalar().starts_with("x-") || entry.first.Scalar() == "<<") {
      continue;
    }
    file.services.push_back(read_service(entry.first.Scalar(), entry.second, file));
  }
  return file;
}

}  // namespace

std::vector<std::string> ComposeFile::images() const {
  std::vector<std::string> images;
  for (const ComposeService& service : services) {
    if (!service.image.empty() && service.image.find('$') == std::string::npos &&
        std::find(images.begin(), images.end(), service.image) == images.end()) {
      images.push_back(service.image);
    }
  }
  return images;
}

bool ComposeFile::may_publish(std::uint16_t guest_port, std::string_view protocol) const {
  return has_unknown_ports ||
         std::any_of(services.begin(), services.end(), [&](const ComposeService& service) {
           return std::any_of(service.ports.begin(), service.ports.end(), [&](const ComposePort& port) {
             return port.protocol == protocol && (!port.published || *port.published == guest_port);
           });
         });
}

base::Result<ComposeFile> parse_compose_file(std::string_view text, std::string_view name) {
  const auto refuse = [&](std::string message) {
    return base::fail(Code::bad_compose_file, std::move(message), k_fix);
  };
  if (text.size() > k_max_compose_file) {
    return refuse(
        base::format("{}: {} bytes, at most {} are accepted", name, text.size(), k_max_compose_file));
  }
  // yaml-cpp ends quietly at a NUL.
  if (text.find('\0') != std::string_view::npos) {
    return refuse(base::format("{}: not text: it holds a NUL byte", name));
  }
  const std::string copy(text);
  if (auto good = check_yaml(copy, name, k_max_nodes); !good) {
    return refuse(good.error().message);
  }
  try {
    return read_root(YAML::Load(copy));
  } catch (const Refused& refused) {
    if (refused.mark.is_null()) {
      return refuse(base::format("{}: {}", name, refused.why));
    }
    return refuse(
        base::format("{}:{}:{}: {}", name, refused.mark.line + 1, refused.mark.column + 1, refused.why));
  } catch (const std::exception& exception) {
    return refuse(base::format("{}: not valid YAML: {}", name, exception.what()));
  }
}

}  // namespace dstack::app
