#include "app/strict_json.h"

#include <nlohmann/json.hpp>
#include <string>
#include <unordered_set>
#include <vector>

#include "base/bytes.h"
#include "base/format.h"

namespace dstack::app {
namespace {

using Json = nlohmann::ordered_json;
using base::Code;

// Builds the value like nlohmann's own handler, but appends members without searching for them: ordered_json
// looks for an existing key by walking the object, which makes a large one quadratic.
class Builder {
 public:
  explicit Builder(int max_depth) : m_max_depth(max_depth) {}

  Json root;
  std::string error;

  bool null() { return put(nullptr); }
  bool boolean(bool value) { return put(value); }
  bool number_integer(Json::number_integer_t value) { return put(value); }
  bool number_unsigned(Json::number_unsigned_t value) { return put(value); }
  bool number_float(Json::number_float_t value, const std::string&) { return put(value); }
  bool string(std::string& value) { return put(std::move(value)); }
  bool binary(Json::binary_t&) { return false; }
  bool start_object(std::size_t) { return open(Json::object()); }
  bool start_array(std::size_t) { return open(Json::array()); }
  bool end_object() { return close(); }
  bool end_array() { return close(); }

  bool key(std::string& name) {
    Frame& frame = m_stack.back();
    if (!frame.add_key(name)) {
      error = base::format("the key \"{}\" appears twice in one object", name.substr(0, 100));
      return false;
    }
    auto& members = frame.value->get_ref<Json::object_t&>();
    static_cast<std::vector<Json::object_t::value_type>&>(members).emplace_back(std::move(name), nullptr);
    m_slot = &members.back().second;
    return true;
  }

  bool parse_error(std::size_t, const std::string&, const nlohmann::detail::exception& exception) {
    error = exception.what();
    // "[json.exception.parse_error.101] parse error at line 1, column 2: ..."
    if (const auto end = error.find("] "); end != std::string::npos) {
      error.erase(0, end + 2);
    }
    return false;
  }

 private:
  struct Frame {
    Json* value;
    std::vector<std::string> few_keys;
    std::unordered_set<std::string> many_keys;

    bool add_key(const std::string& name) {
      if (many_keys.empty()) {
        for (const std::string& seen : few_keys) {
          if (seen == name) {
            return false;
          }
        }
        if (few_keys.size() < 16) {
          few_keys.push_back(name);
          return true;
        }
        many_keys.insert(few_keys.begin(), few_keys.end());
      }
      return many_keys.insert(name).second;
    }
  };

  Json* place(Json value) {
    if (m_stack.empty()) {
      root = std::move(value);
      return &root;
    }
    Json& parent = *m_stack.back().value;
    if (parent.is_array()) {
      parent.get_ref<Json::array_t&>().push_back(std::move(value));
      return &parent.get_ref<Json::array_t&>().back();
    }
    *m_slot = std::move(value);
    return m_slot;
  }
  bool put(Json value) {
    place(std::move(value));
    return true;
  }
  bool open(Json container) {
    if (static_cast<int>(m_stack.size()) >= m_max_depth) {
      error = base::format("nested more than {} levels deep", m_max_depth);
      return false;
    }
    m_stack.push_back(Frame{place(std::move(container)), {}, {}});
    return true;
  }
  bool close() {
    m_stack.pop_back();
    return true;
  }

  int m_max_depth;
  std::vector<Frame> m_stack;
  Json* m_slot = nullptr;
};

}  // namespace

base::Result<nlohmann::ordered_json> parse_json_strict(std::string_view text, JsonLimits limits) {
  if (text.size() > limits.max_bytes) {
    return base::fail(Code::too_large, base::format("{} bytes of JSON, at most {} are accepted", text.size(),
                                                    limits.max_bytes));
  }
  Builder builder(limits.max_depth);
  try {
    if (Json::sax_parse(text.begin(), text.end(), &builder)) {
      return std::move(builder.root);
    }
  } catch (const std::exception& exception) {
    builder.error = exception.what();
  }
  return base::fail(Code::parse, "not acceptable JSON: " + builder.error);
}

}  // namespace dstack::app
