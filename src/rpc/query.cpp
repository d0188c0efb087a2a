#include <google/protobuf/descriptor.h>

#include <charconv>
#include <map>
#include <optional>

#include "base/format.h"
#include "net/http.h"
#include "rpc/json.h"
#include "rpc/scalar.h"

namespace dstack::rpc {

namespace {

using base::Code;
using base::fail;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;

constexpr std::size_t k_max_pairs = 256;
constexpr std::size_t k_max_depth = 8;

// "a[b][0]=x" is the path a, b, 0 with the value x.
struct Node {
  std::optional<std::string> value;
  std::map<std::string, Node> parts;
};

std::unexpected<base::Error> bad(std::string message) {
  return fail(Code::parse, std::move(message));
}

base::Result<> insert(Node& root, const std::string& key, std::string value) {
  const auto bracket = key.find('[');
  Node* node = &root.parts[key.substr(0, bracket)];
  std::string_view rest = std::string_view(key).substr(std::min(bracket, key.size()));
  for (std::size_t depth = 0; !rest.empty(); ++depth) {
    const auto end = rest.find(']');
    if (!rest.starts_with('[') || end == std::string_view::npos || depth == k_max_depth) {
      return bad(base::format("the query key '{}' is malformed", key));
    }
    std::string part(rest.substr(1, end - 1));
    if (part.empty()) {
      // "list[]=x" appends.
      part = std::to_string(node->parts.size());
    }
    node = &node->parts[part];
    rest.remove_prefix(end + 1);
  }
  if (node->value) {
    return bad(base::format("duplicate field `{}`", key));
  }
  node->value = std::move(value);
  return {};
}

ScalarValue convert(const FieldDescriptor& field, const std::string& text) {
  const auto parse_number = [&](auto number) -> ScalarValue {
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
    return error == std::errc{} && end == text.data() + text.size() ? ScalarValue(number) : ScalarValue();
  };
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_STRING:
      return text;
    case FieldDescriptor::CPPTYPE_BOOL:
      return text == "true" ? ScalarValue(true) : text == "false" ? ScalarValue(false) : ScalarValue();
    case FieldDescriptor::CPPTYPE_FLOAT:
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return parse_number(double{});
    case FieldDescriptor::CPPTYPE_UINT32:
    case FieldDescriptor::CPPTYPE_UINT64:
      return parse_number(std::uint64_t{});
    default:
      return parse_number(std::int64_t{});
  }
}

base::Result<> fill(const Node& node, Message& message, const std::string& path);

base::Result<> fill_value(const Node& node, Message& message, const FieldDescriptor& field,
                          const std::string& path) {
  if (field.cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
    const auto& r = *message.GetReflection();
    return fill(node,
                field.is_repeated() ? *r.AddMessage(&message, &field) : *r.MutableMessage(&message, &field),
                path + '.');
  }
  if (!node.value || !node.parts.empty()) {
    return bad(base::format("{}: expected one value", path));
  }
  if (const auto problem = store_scalar(message, field, convert(field, *node.value))) {
    return bad(base::format("{}: expected {}", path, *problem));
  }
  return {};
}

base::Result<> fill_list(const Node& node, Message& message, const FieldDescriptor& field,
                         const std::string& path) {
  if (node.value) {
    // A plain "list=x" is a list of one.
    return fill_value(node, message, field, path);
  }
  // By number, not by text: "10" comes after "9".
  std::map<unsigned, const Node*> elements;
  for (const auto& [key, part] : node.parts) {
    unsigned index = 0;
    const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), index);
    if (error != std::errc{} || end != key.data() + key.size() || !elements.emplace(index, &part).second) {
      return bad(base::format("{}: '{}' is not an index", path, key));
    }
  }
  for (const auto& [index, part] : elements) {
    DS_CHECK(fill_value(*part, message, field, base::format("{}[{}]", path, index)));
  }
  return {};
}

base::Result<> fill(const Node& node, Message& message, const std::string& path) {
  for (const auto& [key, part] : node.parts) {
    const FieldDescriptor* field = message.GetDescriptor()->FindFieldByName(key);
    if (field != nullptr) {
      DS_CHECK(field->is_repeated() ? fill_list(part, message, *field, path + key)
                                    : fill_value(part, message, *field, path + key));
    }
  }
  return {};
}

}  // namespace

base::Result<> from_query(std::string_view query, Message& message) {
  message.Clear();
  Node root;
  for (std::size_t count = 0; !query.empty(); ++count) {
    if (count == k_max_pairs) {
      return bad(base::format("more than {} query parameters", k_max_pairs));
    }
    const auto pair = query.substr(0, query.find('&'));
    query.remove_prefix(std::min(query.size(), pair.size() + 1));
    const auto key = net::percent_decode(pair.substr(0, pair.find('=')), /*plus_is_space=*/true);
    // Only known keys are looked at: "json" and a proxy's own may be malformed as they like.
    if (message.GetDescriptor()->FindFieldByName(key.substr(0, key.find('['))) == nullptr) {
      continue;
    }
    const auto equals = pair.find('=');
    auto value = equals == std::string_view::npos
                     ? std::string{}
                     : net::percent_decode(pair.substr(equals + 1), /*plus_is_space=*/true);
    DS_CHECK(insert(root, key, std::move(value)));
  }
  return fill(root, message, "");
}

}  // namespace dstack::rpc
