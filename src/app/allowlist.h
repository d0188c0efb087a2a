// The allow-list as a value: which apps, OS images and KMS builds may have keys (spec/host.md section 3.1).
#pragma once

#include <cstdint>
#include <functional>
#include <initializer_list>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "base/result.h"

namespace dstack::app {

struct StringHash {
  using is_transparent = void;
  std::size_t operator()(std::string_view text) const { return std::hash<std::string_view>{}(text); }
};
// Elements are normalised (section 2.9) and never empty. A sorted vector: most sets have one element, and
// there are two sets for each app.
class HexSet {
 public:
  using value_type = std::string;
  using const_iterator = std::vector<std::string>::const_iterator;

  HexSet() = default;
  HexSet(std::initializer_list<std::string> entries) { assign(entries); }

  // Replaces everything; any order, repeats are dropped.
  void assign(std::vector<std::string> entries);
  void insert(std::string entry);
  bool contains(std::string_view entry) const;
  bool empty() const { return m_entries.empty(); }
  std::size_t size() const { return m_entries.size(); }
  const_iterator begin() const { return m_entries.begin(); }
  const_iterator end() const { return m_entries.end(); }

 private:
  std::vector<std::string> m_entries;
};

struct AllowlistApp {
  HexSet compose_hashes;
  HexSet devices;
  bool allow_any_device = false;
};

struct Allowlist {
  HexSet os_images;
  // Only read when os_images is empty: then true allows any image, false none.
  bool allow_any_os_image = false;
  std::string gateway_app_id;
  HexSet kms_mr_aggregated;
  HexSet kms_devices;
  bool kms_allow_any_device = false;
  std::unordered_map<std::string, AllowlistApp, StringHash, std::equal_to<>> apps;  // key normalised

  // The stricter sibling's profile (section 3.2); on when the file has allowedTcbStatuses or
  // allowedAdvisoryIds.
  bool strict = false;
  std::unordered_set<std::string, StringHash, std::equal_to<>> allowed_tcb_statuses{"UpToDate"};  // exact
  std::unordered_set<std::string, StringHash, std::equal_to<>> allowed_advisory_ids;
  std::string kms_contract_addr = "0x0000000000000000000000000000000000000000";
  std::string app_implementation = "0x0000000000000000000000000000000000000000";
  std::uint64_t chain_id = 0;
};

constexpr std::size_t k_max_allowlist = 256 * 1024 * 1024;

// Every key is optional, unknown keys are ignored. The whole file is refused (Code::bad_allowlist, naming the
// key) when it is not a JSON object, has a key twice or a wrong type anywhere, when an entry or app key is
// blank ("", "0x"), or when two app keys normalise to one id.
base::Result<Allowlist> parse_allowlist(std::string_view text);

}  // namespace dstack::app
