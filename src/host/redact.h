// Takes secrets out of text that leaves the host.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace dstack::host {

// A command line as /proc has it, its words ended by NUL, for people: the values of options such as --token
// and --password become "[redacted]".
std::string redacted_command_line(std::string_view words);

class Redactor {
 public:
  // A known secret. It is found as it is, in the other case when it is hex, and in base64. Ones shorter than
  // 8 characters are ignored: they would hit by chance.
  void add(std::string_view secret);
  // Every line of a text that is long enough; for key files.
  void add_lines(std::string_view text);
  // The values of a JSON document's keys that name a secret, at any depth. False when it is no JSON.
  bool add_json(std::string_view json);

  // The known secrets, private keys in PEM form, what stands behind words such as `token=`, `"password":`,
  // `--token`, `Bearer` or `Proxy-Authorization:`, and user and password of URLs and proxies become
  // "[redacted]".
  std::string apply(std::string_view text) const;

 private:
  std::vector<std::string> m_secrets;  // longest first
};

}  // namespace dstack::host
