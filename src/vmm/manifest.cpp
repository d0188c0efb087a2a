#include "vmm/manifest.h"

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>

#include "app/strict_json.h"
#include "base/format.h"
#include "crypto/random.h"

namespace dstack::vmm {

using base::Code;
using base::fail;
using base::Result;
using Json = nlohmann::ordered_json;

namespace {

Json network_to_json(const ManifestNetwork& network) {
  Json out;
  out["mode"] = network.mode;
  out["bridge"] = network.bridge;
  out["mac_prefix"] = network.mac_prefix;
  out["net"] = network.net;
  out["dhcp_start"] = network.dhcp_start;
  out["restrict"] = network.restrict_guest;
  out["netdev"] = network.netdev;
  return out;
}

// Reads one object's members; remembers the first thing that was wrong.
class Reader {
 public:
  Reader(const Json& object, std::string where) : m_object(object), m_where(std::move(where)) {
    if (!object.is_object()) {
      m_problem = m_where + " is not an object";
    }
  }

  const Json* find(const char* key) {
    if (m_problem || !m_object.is_object()) {
      return nullptr;
    }
    const auto it = m_object.find(key);
    return it == m_object.end() || it->is_null() ? nullptr : &*it;
  }
  void require(const char* key) {
    if (!m_problem && find(key) == nullptr) {
      m_problem = base::format("{} has no {}", m_where, key);
    }
  }
  void read(const char* key, std::string& out) {
    if (const auto* value = find(key); value != nullptr) {
      if (value->is_string()) {
        out = value->get_ref<const std::string&>();
      } else {
        wrong(key, "a string");
      }
    }
  }
  void read(const char* key, bool& out) {
    if (const auto* value = find(key); value != nullptr) {
      if (value->is_boolean()) {
        out = value->get<bool>();
      } else {
        wrong(key, "true or false");
      }
    }
  }
  template <class Number>
  void read_number(const char* key, Number& out) {
    if (const auto* value = find(key); value != nullptr) {
      if (value->is_number_unsigned() && value->get<std::uint64_t>() <= std::numeric_limits<Number>::max()) {
        out = static_cast<Number>(value->get<std::uint64_t>());
      } else {
        wrong(key, "a number in range");
      }
    }
  }
  void read(const char* key, std::vector<std::string>& out) {
    if (const auto* list = array(key); list != nullptr) {
      for (const auto& item : *list) {
        if (!item.is_string()) {
          wrong(key, "a list of strings");
          return;
        }
        out.push_back(item.get_ref<const std::string&>());
      }
    }
  }
  const Json* array(const char* key) {
    const auto* value = find(key);
    if (value != nullptr && !value->is_array()) {
      wrong(key, "a list");
      return nullptr;
    }
    return value;
  }
  void wrong(const char* key, const char* wanted) {
    if (!m_problem) {
      m_problem = base::format("{}: {} is not {}", m_where, key, wanted);
    }
  }
  void absorb(const Reader& other) {
    if (!m_problem) {
      m_problem = other.m_problem;
    }
  }
  const std::optional<std::string>& problem() const { return m_problem; }

 private:
  const Json& m_object;
  std::string m_where;
  std::optional<std::string> m_problem;
};

ManifestNetwork read_network(Reader& parent, const Json& json) {
  ManifestNetwork network;
  Reader reader(json, "a network");
  reader.read("mode", network.mode);
  reader.read("bridge", network.bridge);
  reader.read("mac_prefix", network.mac_prefix);
  reader.read("net", network.net);
  reader.read("dhcp_start", network.dhcp_start);
  reader.read("restrict", network.restrict_guest);
  reader.read("netdev", network.netdev);
  parent.absorb(reader);
  return network;
}

void read_ports(Reader& parent, std::vector<PortForward>& out) {
  const auto* list = parent.array("port_map");
  if (list == nullptr) {
    return;
  }
  for (const auto& item : *list) {
    PortForward port;
    Reader reader(item, "a port mapping");
    for (const char* key : {"address", "protocol", "from", "to"}) {
      reader.require(key);
    }
    reader.read("address", port.address);
    reader.read("protocol", port.protocol);
    reader.read_number("from", port.host_port);
    reader.read_number("to", port.vm_port);
    if (port.protocol != "tcp" && port.protocol != "udp") {
      reader.wrong("protocol", "tcp or udp");
    }
    parent.absorb(reader);
    out.push_back(std::move(port));
  }
}

void read_volumes(Reader& parent, std::vector<std::string>& out) {
  const auto* list = parent.array("volumes");
  if (list == nullptr) {
    return;
  }
  for (const auto& item : *list) {
    Reader reader(item, "a volume");
    std::string source;
    reader.require("source");
    reader.read("source", source);
    parent.absorb(reader);
    out.push_back(std::move(source));
  }
}

}  // namespace

std::string manifest_to_json(const Manifest& manifest) {
  Json out;
  out["id"] = manifest.id;
  out["name"] = manifest.name;
  out["app_id"] = manifest.app_id;
  out["vcpu"] = manifest.vcpu;
  out["memory"] = manifest.memory;
  out["disk_size"] = manifest.disk_size;
  out["image"] = manifest.image;
  out["port_map"] = Json::array();
  for (const auto& port : manifest.ports) {
    Json entry;
    entry["address"] = port.address;
    entry["protocol"] = port.protocol;
    entry["from"] = port.host_port;
    entry["to"] = port.vm_port;
    out["port_map"].push_back(std::move(entry));
  }
  out["created_at_ms"] = manifest.created_at_ms;
  out["hugepages"] = manifest.hugepages;
  out["pin_numa"] = manifest.pin_numa;
  out["kms_urls"] = manifest.kms_urls;
  out["gateway_urls"] = manifest.gateway_urls;
  out["no_tee"] = manifest.no_tee;
  out["swtpm"] = manifest.swtpm;
  if (manifest.simulated_tee) {
    out["simulated_tee"] = *manifest.simulated_tee;
  }
  if (!manifest.networks.empty()) {
    out["networks"] = Json::array();
    for (const auto& network : manifest.networks) {
      out["networks"].push_back(network_to_json(network));
    }
    // Readers before `networks` existed look for the first one here.
    out["networking"] = network_to_json(manifest.networks.front());
  }
  out["volumes"] = Json::array();
  for (const auto& volume : manifest.volumes) {
    Json entry;
    entry["source"] = volume;
    out["volumes"].push_back(std::move(entry));
  }
  return out.dump(-1, ' ', false, Json::error_handler_t::replace);
}

Result<Manifest> parse_manifest(std::string_view text) {
  auto json = app::parse_json_strict(text, {.max_bytes = k_max_manifest, .max_depth = 16});
  if (!json) {
    auto error = std::move(json).error();
    error.code = Code::vm_record;
    return fail(std::move(error), "the VM's manifest is not valid JSON");
  }
  Manifest manifest;
  Reader reader(*json, "the VM's manifest");
  for (const char* key :
       {"id", "name", "app_id", "image", "vcpu", "memory", "disk_size", "port_map", "created_at_ms"}) {
    reader.require(key);
  }
  reader.read("id", manifest.id);
  reader.read("name", manifest.name);
  reader.read("app_id", manifest.app_id);
  reader.read("image", manifest.image);
  reader.read_number("vcpu", manifest.vcpu);
  reader.read_number("memory", manifest.memory);
  reader.read_number("disk_size", manifest.disk_size);
  reader.read_number("created_at_ms", manifest.created_at_ms);
  reader.read("hugepages", manifest.hugepages);
  reader.read("pin_numa", manifest.pin_numa);
  reader.read("no_tee", manifest.no_tee);
  reader.read("swtpm", manifest.swtpm);
  reader.read("kms_urls", manifest.kms_urls);
  reader.read("gateway_urls", manifest.gateway_urls);
  if (reader.find("simulated_tee") != nullptr) {
    reader.read("simulated_tee", manifest.simulated_tee.emplace());
  }
  if (const auto* gpus = reader.find("gpus"); gpus != nullptr && gpus->is_object()) {
    const auto listed = gpus->find("gpus");
    const auto mode = gpus->find("attach_mode");
    manifest.has_gpus = (listed != gpus->end() && listed->is_array() && !listed->empty()) ||
                        (mode != gpus->end() && *mode == "all");
  }
  if (const auto* networks = reader.array("networks"); networks != nullptr && !networks->empty()) {
    for (const auto& network : *networks) {
      manifest.networks.push_back(read_network(reader, network));
    }
  } else if (const auto* network = reader.find("networking"); network != nullptr) {
    manifest.networks.push_back(read_network(reader, *network));
  }
  read_ports(reader, manifest.ports);
  read_volumes(reader, manifest.volumes);
  if (reader.problem()) {
    return fail(Code::vm_record, *reader.problem());
  }
  if (!valid_vm_id(manifest.id)) {
    return fail(Code::vm_record, "the VM's manifest has an id that is not usable");
  }
  return manifest;
}

bool valid_vm_id(std::string_view id) {
  return !id.empty() && id.size() <= 64 && std::all_of(id.begin(), id.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '-';
  });
}

Result<std::string> new_vm_id() {
  DS_TRY(auto bytes, crypto::random_bytes(16));
  bytes[6] = static_cast<std::uint8_t>((bytes[6] & 0x0fU) | 0x40U);
  bytes[8] = static_cast<std::uint8_t>((bytes[8] & 0x3fU) | 0x80U);
  const auto hex = base::to_hex(bytes);
  return base::format("{}-{}-{}-{}-{}", hex.substr(0, 8), hex.substr(8, 4), hex.substr(12, 4),
                      hex.substr(16, 4), hex.substr(20));
}

}  // namespace dstack::vmm
