#include "rpc/scalar.h"

#include <google/protobuf/descriptor.h>

#include <limits>
#include <utility>

#include "base/bytes.h"
#include "base/format.h"

namespace dstack::rpc {

namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;

template <class T>
std::optional<T> as_integer(const ScalarValue& value) {
  if (const auto* positive = std::get_if<std::uint64_t>(&value); positive && std::in_range<T>(*positive)) {
    return static_cast<T>(*positive);
  }
  if (const auto* any = std::get_if<std::int64_t>(&value); any && std::in_range<T>(*any)) {
    return static_cast<T>(*any);
  }
  return std::nullopt;
}

std::optional<double> as_double(const ScalarValue& value) {
  if (const auto* number = std::get_if<double>(&value)) {
    return *number;
  }
  if (const auto* positive = std::get_if<std::uint64_t>(&value)) {
    return static_cast<double>(*positive);
  }
  if (const auto* any = std::get_if<std::int64_t>(&value)) {
    return static_cast<double>(*any);
  }
  return std::nullopt;
}

template <class T>
std::string integer_expected() {
  return base::format("an integer from {} to {}", std::numeric_limits<T>::min(),
                      std::numeric_limits<T>::max());
}

std::optional<std::string> store_text(Message& message, const FieldDescriptor& field,
                                      const ScalarValue& value) {
  const Reflection& r = *message.GetReflection();
  const auto* text = std::get_if<std::string>(&value);
  const bool bytes = field.type() == FieldDescriptor::TYPE_BYTES;
  if (text == nullptr) {
    return bytes ? "a hex string" : "a string";
  }
  std::string stored = *text;
  if (bytes) {
    std::string_view hex = stored;
    while (hex.starts_with("0x")) {
      hex.remove_prefix(2);
    }
    const auto decoded = base::from_hex(hex);
    if (!decoded) {
      return "a hex string";
    }
    stored = base::to_text(*decoded);
  }
  field.is_repeated() ? r.AddString(&message, &field, std::move(stored))
                      : r.SetString(&message, &field, std::move(stored));
  return std::nullopt;
}

}  // namespace

std::optional<std::string> store_scalar(Message& message, const FieldDescriptor& field,
                                        const ScalarValue& value) {
  const Reflection& r = *message.GetReflection();
  const bool many = field.is_repeated();
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_BOOL: {
      const auto* flag = std::get_if<bool>(&value);
      if (flag == nullptr) {
        return "true or false";
      }
      many ? r.AddBool(&message, &field, *flag) : r.SetBool(&message, &field, *flag);
      return std::nullopt;
    }
    case FieldDescriptor::CPPTYPE_INT32: {
      const auto number = as_integer<std::int32_t>(value);
      if (!number) {
        return integer_expected<std::int32_t>();
      }
      many ? r.AddInt32(&message, &field, *number) : r.SetInt32(&message, &field, *number);
      return std::nullopt;
    }
    case FieldDescriptor::CPPTYPE_UINT32: {
      const auto number = as_integer<std::uint32_t>(value);
      if (!number) {
        return integer_expected<std::uint32_t>();
      }
      many ? r.AddUInt32(&message, &field, *number) : r.SetUInt32(&message, &field, *number);
      return std::nullopt;
    }
    case FieldDescriptor::CPPTYPE_INT64: {
      const auto number = as_integer<std::int64_t>(value);
      if (!number) {
        return integer_expected<std::int64_t>();
      }
      many ? r.AddInt64(&message, &field, *number) : r.SetInt64(&message, &field, *number);
      return std::nullopt;
    }
    case FieldDescriptor::CPPTYPE_UINT64: {
      const auto number = as_integer<std::uint64_t>(value);
      if (!number) {
        return integer_expected<std::uint64_t>();
      }
      many ? r.AddUInt64(&message, &field, *number) : r.SetUInt64(&message, &field, *number);
      return std::nullopt;
    }
    case FieldDescriptor::CPPTYPE_ENUM: {
      const auto number = as_integer<std::int32_t>(value);
      if (!number) {
        return "an enum number";
      }
      many ? r.AddEnumValue(&message, &field, *number) : r.SetEnumValue(&message, &field, *number);
      return std::nullopt;
    }
    case FieldDescriptor::CPPTYPE_FLOAT:
    case FieldDescriptor::CPPTYPE_DOUBLE: {
      const auto number = as_double(value);
      if (!number) {
        return "a number";
      }
      if (field.cpp_type() == FieldDescriptor::CPPTYPE_FLOAT) {
        const auto narrow = static_cast<float>(*number);
        many ? r.AddFloat(&message, &field, narrow) : r.SetFloat(&message, &field, narrow);
      } else {
        many ? r.AddDouble(&message, &field, *number) : r.SetDouble(&message, &field, *number);
      }
      return std::nullopt;
    }
    case FieldDescriptor::CPPTYPE_STRING:
      return store_text(message, field, value);
    case FieldDescriptor::CPPTYPE_MESSAGE:
      break;
  }
  return "another type";
}

}  // namespace dstack::rpc
