// prpc's JSON form of protobuf messages (spec/host.md section 4.4): proto field names, every field present,
// bytes as lower hex, 64-bit integers as numbers, unset optional and message fields as null. Input: unknown
// keys ignored, null only for optional and message fields, hex with or without 0x.
#pragma once

#include <google/protobuf/message.h>

#include <string>
#include <string_view>

#include "base/result.h"

namespace dstack::rpc {

// Compact. Empty messages (google.protobuf.Empty and any message without fields) give "null" at the top
// level.
std::string to_json(const google::protobuf::Message& message);
// Empty text means the default message. Code::parse with the field's path.
base::Result<> from_json(std::string_view text, google::protobuf::Message& message);
// A query string as the arguments of a GET: "a=1&list[0]=x&part[field]=y". Unknown keys are ignored.
base::Result<> from_query(std::string_view query, google::protobuf::Message& message);

}  // namespace dstack::rpc
