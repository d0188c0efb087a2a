#include "host/redact.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <nlohmann/json.hpp>
#include <tuple>
#include <utility>

#include "base/bytes.h"

namespace dstack::host {

namespace {

constexpr std::size_t k_shortest = 8;
constexpr std::string_view k_mark = "[redacted]";
constexpr std::array<std::string_view, 11> k_words = {"token",      "secret",        "password",    "passwd",
                                                      "seed",       "private_key",   "private-key", "api_key",
                                                      "access_key", "authorization", "credential"};

char lower(char c) {
  return static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
}

bool in_name(char c) {
  return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_' || c == '-';
}

bool contains(std::string_view name, std::string_view word) {
  return std::search(name.begin(), name.end(), word.begin(), word.end(),
                     [](char a, char b) { return lower(a) == b; }) != name.end();
}

// Is `word` the last word of `name`, as in "token_file", "--token-file" and "tokenFile", and not as in
// "profile"?
bool ends_with_word(std::string_view name, std::string_view word) {
  if (name.size() <= word.size() || !contains(name.substr(name.size() - word.size()), word)) {
    return false;
  }
  const char before = name[name.size() - word.size() - 1];
  const char first = name[name.size() - word.size()];
  return before == '_' || before == '-' || (lower(first) != first && lower(before) == before);
}

// "client_token", but not "token_file", whose value is a path.
bool names_secret(std::string_view name) {
  for (const auto* harmless : {"file", "path", "hash", "sha256", "url"}) {
    if (ends_with_word(name, harmless)) {
      return false;
    }
  }
  return std::ranges::any_of(k_words, [&](std::string_view word) { return contains(name, word); });
}

bool is_secret_option(std::string_view word) {
  return word.starts_with('-') && names_secret(word.substr(0, word.find('=')));
}

void collect(const nlohmann::json& node, bool secret, std::vector<std::string>& out) {
  if (node.is_string() && secret) {
    out.push_back(node.get<std::string>());
  }
  if (node.is_array()) {
    for (const auto& item : node) {
      collect(item, secret, out);
    }
  }
  if (node.is_object()) {
    for (const auto& [key, value] : node.items()) {
      collect(value, secret || names_secret(key), out);
    }
  }
}

// From "-----BEGIN ... PRIVATE KEY-----" to its end, or to the end of the text.
std::string without_private_keys(std::string text) {
  constexpr std::string_view k_begin = "-----BEGIN ";
  constexpr std::string_view k_kind = "PRIVATE KEY-----";
  for (std::size_t at = 0; (at = text.find(k_begin, at)) != std::string::npos;) {
    const auto kind = text.find(k_kind, at);
    const auto line_end = std::min(text.find('\n', at), text.size());
    if (kind == std::string::npos || kind > line_end) {
      at += k_begin.size();
      continue;
    }
    const auto end = text.find(k_kind, kind + k_kind.size());
    const auto stop = end == std::string::npos ? text.size() : end + k_kind.size();
    text.replace(at, stop - at, k_mark);
    at += k_mark.size();
  }
  return text;
}

// Where the value begins that `name` at [.., end) is followed by: `= x`, `": "x`, ` x` for "Bearer" and
// "--token". npos: none.
std::size_t value_after(std::string_view line, std::size_t end, bool space_is_enough) {
  std::size_t at = end;
  while (at < line.size() && (line[at] == '"' || line[at] == '\'' || line[at] == '\\')) {
    ++at;
  }
  const auto before = at;
  while (at < line.size() && line[at] == ' ') {
    ++at;
  }
  const bool spaced = at > before;
  if (at < line.size() && (line[at] == '=' || line[at] == ':')) {
    ++at;
  } else if (!spaced || !space_is_enough) {
    return std::string_view::npos;
  }
  while (at < line.size() && (line[at] == ' ' || line[at] == '[') && !line.substr(at).starts_with(k_mark)) {
    ++at;
  }
  return at;
}

// `whole_word`: only white space ends it, as in a command line.
std::size_t value_end(std::string_view line, std::size_t at, bool whole_word, std::size_t& begin) {
  char quote = 0;
  while (at < line.size() && (line[at] == '"' || line[at] == '\'' || line[at] == '\\')) {
    quote = line[at] == '\\' ? quote : line[at];
    ++at;
  }
  begin = at;
  while (at < line.size()) {
    const char c = line[at];
    const bool stop =
        quote != 0 ? c == quote
                   : std::isspace(static_cast<unsigned char>(c)) != 0 ||
                         (!whole_word && std::string_view("\"',;&}])").find(c) != std::string_view::npos);
    if (stop) {
      break;
    }
    ++at;
  }
  return at;
}

bool ends_url(char c) {
  return static_cast<unsigned char>(c) <= ' ' ||
         std::string_view("\"'<>`|\\").find(c) != std::string_view::npos;
}

// How long the user and password are that a URL has behind its "://"; 0: it has none.
std::size_t user_info_length(std::string_view rest) {
  const auto end = std::ranges::find_if(rest, ends_url) - rest.begin();
  const auto url = rest.substr(0, static_cast<std::size_t>(end));
  const auto authority = url.substr(0, url.find_first_of("/?#"));
  if (const auto at = authority.rfind('@'); at != std::string_view::npos) {
    return at;
  }
  // A password with a slash in it: what looks like a port is none.
  const auto colon = authority.rfind(':');
  const bool port = colon == std::string_view::npos || authority.ends_with(']') ||
                    authority.find_first_not_of("0123456789", colon + 1) == std::string_view::npos;
  const auto at = port ? std::string_view::npos : url.rfind('@');
  return at == std::string_view::npos ? 0 : at;
}

// In every URL of the line, also as JSON may write it.
std::string without_user_info(std::string_view line) {
  std::string out(line);
  for (const std::string_view separator : {"://", ":\\/\\/"}) {
    for (std::size_t begin = 0; (begin = out.find(separator, begin)) != std::string::npos;) {
      begin += separator.size();
      const auto length = user_info_length(std::string_view(out).substr(begin));
      if (length != 0) {
        out.replace(begin, length, k_mark);
        begin += k_mark.size();
      }
    }
  }
  return out;
}

// Where the secret of an Authorization header begins and ends: behind the scheme, and up to the quote that
// the header stands in, or the end of the line, since there are schemes with many parts.
std::pair<std::size_t, std::size_t> credentials(std::string_view line, std::size_t name, std::size_t value) {
  const char before = name == 0 ? ' ' : line[name - 1];
  const char first = value < line.size() ? line[value] : ' ';
  const auto is_quote = [](char c) { return c == '"' || c == '\''; };
  std::size_t begin = is_quote(first) ? value + 1 : value;
  // In {"authorization": "x"} the quote before the name is not that of the value.
  const bool name_is_quoted =
      is_quote(before) && line.substr(name, value - name).find(before) != std::string_view::npos;
  const char quote = is_quote(first) ? first : is_quote(before) && !name_is_quoted ? before : '\0';
  const auto end = quote == '\0' ? line.size() : std::min(line.find(quote, begin), line.size());
  const auto space = line.find(' ', begin);
  if (space < end && line.find_first_not_of(' ', space) < end) {
    begin = line.find_first_not_of(' ', space);
  }
  return {begin, end};
}

void redact_line(std::string_view line, std::string& out) {
  std::size_t copied = 0;
  for (std::size_t at = 0; at < line.size();) {
    if (!in_name(line[at])) {
      ++at;
      continue;
    }
    auto end = at;
    while (end < line.size() && in_name(line[end])) {
      ++end;
    }
    const auto name = line.substr(at, end - at);
    const auto name_begin = at;
    const bool scheme = contains(name, "bearer") || name == "Basic";
    const bool option = name.starts_with("--");
    at = end;
    const bool proxy = ends_with_word(name, "proxy");
    if (!scheme && !proxy && !names_secret(name)) {
      continue;
    }
    const auto value = value_after(line, end, scheme || option);
    if (value == std::string_view::npos) {
      continue;
    }
    std::size_t begin = value;
    auto stop = value_end(line, value, option || proxy, begin);
    if (proxy) {
      // "user:password@host" without a scheme; with one it has been taken care of.
      const auto length = line.substr(begin, stop - begin).rfind('@');
      if (length == std::string_view::npos ||
          line.substr(begin, stop - begin).find("://") != std::string_view::npos) {
        at = std::max(begin, at);
        continue;
      }
      stop = begin + length;
    } else if (contains(name, "authorization")) {
      std::tie(begin, stop) = credentials(line, name_begin, value);
    }
    // "Authorization: Bearer x": the scheme is not the secret.
    const auto text = line.substr(begin, stop - begin);
    // In "--show-token --password x" the first one has no value.
    if (text == "Bearer" || text == "Basic" || (option && is_secret_option(text))) {
      at = begin;
      continue;
    }
    if (!text.empty() && text != "null" && text != "true" && text != "false" &&
        !line.substr(begin).starts_with(k_mark)) {
      out += line.substr(copied, begin - copied);
      out += k_mark;
      copied = stop;
    }
    at = std::max(stop, at);
  }
  out += line.substr(copied);
}

}  // namespace

std::string redacted_command_line(std::string_view words) {
  std::string out;
  bool is_value = false;
  while (!words.empty()) {
    const auto end = std::min(words.find('\0'), words.size());
    const auto word = words.substr(0, end);
    words.remove_prefix(std::min(end + 1, words.size()));
    const auto equals = word.find('=');
    const bool secret = names_secret(word.substr(0, equals));
    out += out.empty() ? "" : " ";
    if (equals != std::string_view::npos && secret) {
      out += word.substr(0, equals + 1);
      out += k_mark;
      is_value = false;
    } else if (is_value && !is_secret_option(word)) {
      out += k_mark;
      is_value = false;
    } else {
      out += word;
      is_value = is_secret_option(word);
    }
  }
  return out;
}

void Redactor::add(std::string_view secret) {
  const auto text = base::trim(secret);
  if (text.size() < k_shortest) {
    return;
  }
  std::vector<std::string> forms = {std::string(text), base::to_base64(base::as_bytes(text))};
  if (const auto bytes = base::from_hex(text)) {
    forms.push_back(base::to_hex(*bytes));
    std::string upper = forms.back();
    std::ranges::transform(upper, upper.begin(),
                           [](unsigned char c) { return static_cast<char>(std::toupper(c)); });
    forms.push_back(upper);
    forms.push_back(base::to_base64(*bytes));
  }
  for (auto& form : forms) {
    if (std::ranges::find(m_secrets, form) == m_secrets.end()) {
      m_secrets.push_back(std::move(form));
    }
  }
  // A secret that holds another one must go first.
  std::ranges::stable_sort(m_secrets, std::greater{}, &std::string::size);
}

void Redactor::add_lines(std::string_view text) {
  for (std::size_t begin = 0; begin < text.size();) {
    const auto end = std::min(text.find('\n', begin), text.size());
    const auto line = base::trim(text.substr(begin, end - begin));
    if (!line.starts_with("-----")) {
      add(line);
    }
    begin = end + 1;
  }
}

bool Redactor::add_json(std::string_view json) {
  const auto root = nlohmann::json::parse(json, nullptr, /*allow_exceptions=*/false);
  if (root.is_discarded()) {
    return false;
  }
  std::vector<std::string> found;
  collect(root, false, found);
  for (const auto& secret : found) {
    add(secret);
  }
  return true;
}

std::string Redactor::apply(std::string_view text) const {
  auto whole = without_private_keys(std::string(text));
  for (const auto& secret : m_secrets) {
    std::size_t at = whole.find(secret);
    if (at == std::string::npos) {
      continue;
    }
    std::string out;
    std::size_t copied = 0;
    for (; at != std::string::npos; at = whole.find(secret, copied)) {
      out.append(whole, copied, at - copied);
      out += k_mark;
      copied = at + secret.size();
    }
    out.append(whole, copied);
    whole = std::move(out);
  }
  std::string out;
  for (std::size_t begin = 0; begin < whole.size();) {
    const auto end = std::min(whole.find('\n', begin), whole.size());
    redact_line(without_user_info(std::string_view(whole).substr(begin, end - begin)), out);
    if (end < whole.size()) {
      out += '\n';
    }
    begin = end + 1;
  }
  return out;
}

}  // namespace dstack::host
