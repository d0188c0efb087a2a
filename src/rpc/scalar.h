// One scalar value into a protobuf field, with the range and type rules of prpc's JSON.
#pragma once

#include <google/protobuf/message.h>

#include <cstdint>
#include <optional>
#include <string>
#include <variant>

namespace dstack::rpc {

// monostate stands for null, a list or an object.
using ScalarValue = std::variant<std::monostate, bool, std::uint64_t, std::int64_t, double, std::string>;

// Sets the field, or adds to it when it is repeated. nullopt on success, else what was expected ("a string").
std::optional<std::string> store_scalar(google::protobuf::Message& message,
                                        const google::protobuf::FieldDescriptor& field,
                                        const ScalarValue& value);

}  // namespace dstack::rpc
