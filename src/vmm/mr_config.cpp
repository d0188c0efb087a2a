#include "vmm/mr_config.h"

#include <algorithm>
#include <nlohmann/json.hpp>

namespace dstack::vmm {

MrConfigId mr_config_v1(const crypto::Hash256& compose_hash) {
  MrConfigId id{};
  id[0] = 1;
  std::copy(compose_hash.begin(), compose_hash.end(), id.begin() + 1);
  return id;
}

std::string mr_config_document(const MrConfigDocument& document) {
  // Keys in alphabetical order without spaces, ASCII values only: this is the canonical form.
  nlohmann::ordered_json json;
  json["app_id"] = base::to_hex(document.app_id);
  json["compose_hash"] = base::to_hex(document.compose_hash);
  if (document.gpu_policy_hash) {
    json["gpu_policy_hash"] = base::to_hex(*document.gpu_policy_hash);
  }
  if (document.init_script_hashes) {
    json["init_script_hashes"] = nlohmann::ordered_json::array();
    for (const auto& hash : *document.init_script_hashes) {
      json["init_script_hashes"].push_back(base::to_hex(hash));
    }
  }
  json["instance_id"] = base::to_hex(document.instance_id);
  json["key_provider"] = document.key_provider;
  json["key_provider_id"] = base::to_hex(document.key_provider_id);
  json["version"] = 3;
  return json.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

crypto::Hash256 mr_config_v3_hash(std::string_view document) {
  static constexpr std::string_view k_domain("dstack-mr-config-v3:\0", 21);
  return crypto::sha256({base::as_bytes(k_domain), base::as_bytes(document)});
}

MrConfigId mr_config_v3(std::string_view document) {
  const auto hash = mr_config_v3_hash(document);
  MrConfigId id{};
  id[0] = 3;
  std::copy(hash.begin(), hash.end(), id.begin() + 1);
  return id;
}

base::Bytes instance_id(base::ByteView seed, base::ByteView app_id) {
  const auto hash = crypto::sha256({seed, app_id});
  return {hash.begin(), hash.begin() + 20};
}

}  // namespace dstack::vmm
