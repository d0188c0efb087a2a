#include "rpc/json.h"

#include <google/protobuf/descriptor.h>

#include <limits>
#include <nlohmann/json.hpp>
#include <set>
#include <stdexcept>
#include <vector>

#include "base/bytes.h"
#include "base/format.h"
#include "rpc/scalar.h"

namespace dstack::rpc {

namespace {

using base::Code;
using base::fail;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;
using Json = nlohmann::json;

constexpr int k_max_depth = 64;

std::string quote(const std::string& text) {
  // ASCII only: upstream's JavaScript client counts characters where Content-Length counts bytes.
  return Json(text).dump(-1, ' ', /*ensure_ascii=*/true, Json::error_handler_t::replace);
}

std::string write_message(const Message& message);

// One value of a field; `index` is -1 for a field that is not repeated.
std::string write_value(const Message& message, const FieldDescriptor& field, int index) {
  const Reflection& r = *message.GetReflection();
  const bool many = index >= 0;
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_BOOL:
      return (many ? r.GetRepeatedBool(message, &field, index) : r.GetBool(message, &field)) ? "true"
                                                                                             : "false";
    case FieldDescriptor::CPPTYPE_INT32:
      return std::to_string(many ? r.GetRepeatedInt32(message, &field, index) : r.GetInt32(message, &field));
    case FieldDescriptor::CPPTYPE_UINT32:
      return std::to_string(many ? r.GetRepeatedUInt32(message, &field, index)
                                 : r.GetUInt32(message, &field));
    case FieldDescriptor::CPPTYPE_INT64:
      return std::to_string(many ? r.GetRepeatedInt64(message, &field, index) : r.GetInt64(message, &field));
    case FieldDescriptor::CPPTYPE_UINT64:
      return std::to_string(many ? r.GetRepeatedUInt64(message, &field, index)
                                 : r.GetUInt64(message, &field));
    case FieldDescriptor::CPPTYPE_ENUM:
      return std::to_string(many ? r.GetRepeatedEnumValue(message, &field, index)
                                 : r.GetEnumValue(message, &field));
    case FieldDescriptor::CPPTYPE_FLOAT:
      return Json(many ? r.GetRepeatedFloat(message, &field, index) : r.GetFloat(message, &field)).dump();
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return Json(many ? r.GetRepeatedDouble(message, &field, index) : r.GetDouble(message, &field)).dump();
    case FieldDescriptor::CPPTYPE_STRING: {
      const std::string value =
          many ? r.GetRepeatedString(message, &field, index) : r.GetString(message, &field);
      return field.type() == FieldDescriptor::TYPE_BYTES ? '"' + base::to_hex(base::as_bytes(value)) + '"'
                                                         : quote(value);
    }
    case FieldDescriptor::CPPTYPE_MESSAGE:
      return write_message(many ? r.GetRepeatedMessage(message, &field, index)
                                : r.GetMessage(message, &field));
  }
  return "null";
}

std::string write_message(const Message& message) {
  const auto& type = *message.GetDescriptor();
  const Reflection& r = *message.GetReflection();
  std::string out = "{";
  for (int i = 0; i < type.field_count(); ++i) {
    const FieldDescriptor& field = *type.field(i);
    out += i == 0 ? "\"" : ",\"";
    out += field.name();
    out += "\":";
    if (field.is_repeated()) {
      out += '[';
      for (int n = 0; n < r.FieldSize(message, &field); ++n) {
        out += n == 0 ? "" : ",";
        out += write_value(message, field, n);
      }
      out += ']';
    } else if (field.has_presence() && !r.HasField(message, &field)) {
      out += "null";
    } else {
      out += write_value(message, field, -1);
    }
  }
  return out + '}';
}

std::unexpected<base::Error> wrong(const std::string& path, std::string_view expected) {
  return fail(Code::parse, base::format("{}: expected {}", path.empty() ? "the request" : path, expected));
}

base::Result<> read_message(const Json& json, Message& message, const std::string& path);

base::Result<> read_value(const Json& json, Message& message, const FieldDescriptor& field,
                          const std::string& path) {
  const Reflection& r = *message.GetReflection();
  if (field.cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
    Message* part = field.is_repeated() ? r.AddMessage(&message, &field) : r.MutableMessage(&message, &field);
    return read_message(json, *part, path);
  }
  ScalarValue value;
  if (json.is_boolean()) {
    value = json.get<bool>();
  } else if (json.is_number_unsigned()) {
    value = json.get<std::uint64_t>();
  } else if (json.is_number_integer()) {
    value = json.get<std::int64_t>();
  } else if (json.is_number_float()) {
    value = json.get<double>();
  } else if (json.is_string()) {
    value = json.get<std::string>();
  }
  if (const auto problem = store_scalar(message, field, value)) {
    return wrong(path, *problem);
  }
  return {};
}

base::Result<> read_message(const Json& json, Message& message, const std::string& path) {
  const auto& type = *message.GetDescriptor();
  if (type.field_count() == 0) {
    return {};
  }
  if (!json.is_object()) {
    return wrong(path, "an object");
  }
  for (const auto& [key, value] : json.items()) {
    const FieldDescriptor* field = type.FindFieldByName(key);
    if (field == nullptr) {
      continue;
    }
    const std::string here = path.empty() ? key : path + '.' + key;
    if (field->is_repeated()) {
      if (!value.is_array()) {
        return wrong(here, "a list");
      }
      std::size_t index = 0;
      for (const auto& element : value) {
        DS_CHECK(read_value(element, message, *field, base::format("{}[{}]", here, index++)));
      }
    } else if (value.is_null() && field->has_presence()) {
      message.GetReflection()->ClearField(&message, field);
    } else {
      DS_CHECK(read_value(value, message, *field, here));
    }
  }
  return {};
}

base::Result<Json> parse(std::string_view text) {
  std::vector<std::set<std::string>> keys;
  const auto check = [&](int depth, Json::parse_event_t event, const Json& parsed) {
    if (depth > k_max_depth) {
      throw std::length_error(base::format("nested deeper than {} levels", k_max_depth));
    }
    if (event == Json::parse_event_t::object_start) {
      keys.emplace_back();
    } else if (event == Json::parse_event_t::object_end) {
      keys.pop_back();
    } else if (event == Json::parse_event_t::key && !keys.back().insert(parsed.get<std::string>()).second) {
      throw std::invalid_argument(base::format("duplicate field `{}`", parsed.get<std::string>()));
    }
    return true;
  };
  try {
    return Json::parse(text, check);
  } catch (const Json::parse_error& error) {
    return fail(Code::parse, base::format("not JSON: unexpected input at byte {}", error.byte));
  } catch (const std::exception& error) {
    return fail(Code::parse, base::format("not acceptable JSON: {}", error.what()));
  }
}

}  // namespace

std::string to_json(const Message& message) {
  return message.GetDescriptor()->field_count() == 0 ? "null" : write_message(message);
}

base::Result<> from_json(std::string_view text, Message& message) {
  message.Clear();
  if (text.empty()) {
    return {};
  }
  DS_TRY(const Json json, parse(text));
  return read_message(json, message, "");
}

}  // namespace dstack::rpc
