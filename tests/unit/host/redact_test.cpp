#include "host/redact.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/bytes.h"

using namespace dstack;
using testing::HasSubstr;
using testing::Not;

TEST(Redact, KnownSecretsInEveryForm) {
  host::Redactor redactor;
  const std::string hex = "00ff17a2b3c4d5e60718293a4b5c6d7e";
  redactor.add(" " + hex + "\n");
  redactor.add("short");
  std::string upper = hex;
  for (auto& c : upper) {
    c = static_cast<char>(std::toupper(c));
  }
  const auto text = hex + "|" + upper + "|" + base::to_base64(*base::from_hex(hex)) + "|" +
                    base::to_base64(base::as_bytes(hex)) + "|short";
  EXPECT_EQ(redactor.apply(text), "[redacted]|[redacted]|[redacted]|[redacted]|short");
}

TEST(Redact, TheLongerSecretGoesFirst) {
  host::Redactor redactor;
  redactor.add("abcdefgh");
  redactor.add("abcdefgh-ijkl");
  EXPECT_EQ(redactor.apply("x abcdefgh-ijkl abcdefgh"), "x [redacted] [redacted]");
}

TEST(Redact, ValuesBehindTellingNames) {
  const host::Redactor redactor;
  const std::pair<const char*, const char*> k_cases[] = {
      {"auth token=CANARY99 done", "auth token=[redacted] done"},
      {"{\"host_api_token\":\"CANARY99\",\"x\":1}", "{\"host_api_token\":\"[redacted]\",\"x\":1}"},
      {"\"password\": \"two words\", \"b\": 2", "\"password\": \"[redacted]\", \"b\": 2"},
      {"mock_attestation_seed = \"CANARY99\"", "mock_attestation_seed = \"[redacted]\""},
      {"tokens = [\"CANARY99\"]", "tokens = [\"[redacted]\"]"},
      {"Authorization: Bearer CANARY99", "Authorization: Bearer [redacted]"},
      {"authorization: Basic CANARY99=", "authorization: Basic [redacted]"},
      {"sent 'Bearer CANARY99' to", "sent 'Bearer [redacted]' to"},
      {"DB_PASSWORD=CANARY99;HOST=x", "DB_PASSWORD=[redacted];HOST=x"},
      {"{\\\"token\\\":\\\"CANARY99\\\"}", "{\\\"token\\\":\\\"[redacted]\"}"},
      // Not secrets.
      {"token_file = \"/etc/dstack/vmm-auth-token\"", "token_file = \"/etc/dstack/vmm-auth-token\""},
      {"\"client_token_path\": \"/x\"", "\"client_token_path\": \"/x\""},
      {"the token is missing", "the token is missing"},
      {"\"token\": null", "\"token\": null"},
      {"compose_hash=1234", "compose_hash=1234"},
      {"", ""},
      {"\n\n", "\n\n"},
  };
  for (const auto& [text, expected] : k_cases) {
    EXPECT_EQ(redactor.apply(text), expected);
  }
}

TEST(Redact, AHarmlessWordInsideANameHidesNoSecret) {
  const host::Redactor redactor;
  const std::pair<const char*, const char*> k_cases[] = {
      {"profile_token=CANARY99", "profile_token=[redacted]"},
      {"token_profile=CANARY99", "token_profile=[redacted]"},
      {"DATABASE_URL_PASSWORD=CANARY99", "DATABASE_URL_PASSWORD=[redacted]"},
      {"{\"pathToken\": \"CANARY99\"}", "{\"pathToken\": \"[redacted]\"}"},
      // The value is where the secret is, not the secret.
      {"--token-file=/etc/token", "--token-file=/etc/token"},
      {"TOKEN_URL=https://example.net", "TOKEN_URL=https://example.net"},
      {"\"tokenFile\": \"/x\"", "\"tokenFile\": \"/x\""},
      {"token_sha256=1234", "token_sha256=1234"},
  };
  for (const auto& [text, expected] : k_cases) {
    EXPECT_EQ(redactor.apply(text), expected);
  }
}

TEST(Redact, UserAndPasswordOfUrls) {
  const host::Redactor redactor;
  const std::pair<const char*, const char*> k_cases[] = {
      {"GET https://user:CANARY99@host/ 200", "GET https://[redacted]@host/ 200"},
      {"https://CANARY99@host", "https://[redacted]@host"},
      {"https://user:CAN@RY99@host:8443/a@b", "https://[redacted]@host:8443/a@b"},
      {"https://user:CAN/ARY99@host/x", "https://[redacted]@host/x"},
      {"\"url\":\"https:\\/\\/user:CANARY99@host\\/x\"", "\"url\":\"https:\\/\\/[redacted]@host\\/x\""},
      {"a ftp://u:CANARY99@h, http://v:CANARY98@i;", "a ftp://[redacted]@h, http://[redacted]@i;"},
      {"TOKEN_URL=https://user:CANARY99@host", "TOKEN_URL=https://[redacted]@host"},
      {"https_proxy=http://user:CANARY99@proxy:3128", "https_proxy=http://[redacted]@proxy:3128"},
      {"https_proxy=user:CAN,ARY99@proxy:3128 x", "https_proxy=[redacted]@proxy:3128 x"},
      {"HTTPS_PROXY: \"user:CANARY99@proxy:3128\"", "HTTPS_PROXY: \"[redacted]@proxy:3128\""},
      {"curl --proxy user:CANARY99@proxy:3128 x", "curl --proxy [redacted]@proxy:3128 x"},
      // Nothing secret.
      {"https://host:8443/a@b?c=d@e", "https://host:8443/a@b?c=d@e"},
      {"http://[::1]:80/a@b", "http://[::1]:80/a@b"},
      {"https://host/ and somebody@example.net", "https://host/ and somebody@example.net"},
      {"https_proxy=http://proxy:3128", "https_proxy=http://proxy:3128"},
      {"no_proxy=localhost,127.0.0.1", "no_proxy=localhost,127.0.0.1"},
      {"://@", "://@"},
      {"://", "://"},
  };
  for (const auto& [text, expected] : k_cases) {
    EXPECT_EQ(redactor.apply(text), expected);
    EXPECT_EQ(redactor.apply(redactor.apply(text)), expected);
  }
}

TEST(Redact, AuthorizationOfEveryScheme) {
  const host::Redactor redactor;
  const std::pair<const char*, const char*> k_cases[] = {
      {"Proxy-Authorization: Basic CANARY99==", "Proxy-Authorization: Basic [redacted]"},
      {"> proxy-authorization: Negotiate CANARY99", "> proxy-authorization: Negotiate [redacted]"},
      {"Authorization: Digest username=\"u\", response=\"CANARY99\"", "Authorization: Digest [redacted]"},
      {"Authorization: CANARY99", "Authorization: [redacted]"},
      {"Authorization: Bearer CANARY99 CANARY98", "Authorization: Bearer [redacted]"},
      {"curl -H 'Authorization: token CANARY99' host", "curl -H 'Authorization: token [redacted]' host"},
      {"{\"authorization\":\"Custom CANARY99\",\"x\":1}",
       "{\"authorization\":\"Custom [redacted]\",\"x\":1}"},
      {"authorization=Bearer CANARY99", "authorization=Bearer [redacted]"},
      {"no authorization was given", "no authorization was given"},
      {"Authorization:", "Authorization:"},
  };
  for (const auto& [text, expected] : k_cases) {
    EXPECT_EQ(redactor.apply(text), expected);
    EXPECT_EQ(redactor.apply(redactor.apply(text)), expected);
  }
}

TEST(Redact, TheWordAfterAnOptionThatNamesASecret) {
  const host::Redactor redactor;
  const std::pair<const char*, const char*> k_cases[] = {
      {"dstack ls --token CANARY99 --json", "dstack ls --token [redacted] --json"},
      {"dstack ls --token=CAN,ARY99 --json", "dstack ls --token=[redacted] --json"},
      {"x --password  CAN&ARY;99", "x --password  [redacted]"},
      {"x --show-token --password CANARY99", "x --show-token --password [redacted]"},
      {"x --token --CANARY99", "x --token [redacted]"},
      {"x --token \"CANARY 99\" y", "x --token \"[redacted]\" y"},
      {"x --token [redacted] y", "x --token [redacted] y"},
      {"token=[redacted]", "token=[redacted]"},
      {"x --token-file /etc/token --json", "x --token-file /etc/token --json"},
      {"x --token", "x --token"},
  };
  for (const auto& [text, expected] : k_cases) {
    EXPECT_EQ(redactor.apply(text), expected);
    EXPECT_EQ(redactor.apply(redactor.apply(text)), expected);
  }
}

TEST(Redact, CommandLinesWordByWord) {
  using namespace std::string_view_literals;
  const auto line = host::redacted_command_line(
      "dstack\0ls\0--token\0CAN ARY\n99\0--password=CANARY 99\0--show-token\0--secret\0--CANARY\0"
      "DB_PASSWORD=CANARY 1\0--token-file\0/x\0\0end\0"sv);
  EXPECT_EQ(line,
            "dstack ls --token [redacted] --password=[redacted] --show-token --secret [redacted] "
            "DB_PASSWORD=[redacted] --token-file /x  end");
  EXPECT_EQ(host::Redactor().apply(line), line);
  EXPECT_EQ(host::redacted_command_line(""), "");
  EXPECT_EQ(host::redacted_command_line("a\0--token"sv), "a --token");
}

TEST(Redact, PrivateKeys) {
  const host::Redactor redactor;
  EXPECT_EQ(redactor.apply("a\n-----BEGIN PRIVATE KEY-----\nMIG\n-----END PRIVATE KEY-----\nb"),
            "a\n[redacted]\nb");
  EXPECT_EQ(redactor.apply("-----BEGIN EC PRIVATE KEY-----\nMIG cut off"), "[redacted]");
  const std::string certificate = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n";
  EXPECT_EQ(redactor.apply(certificate), certificate);
}

TEST(Redact, SecretsOfADocument) {
  host::Redactor redactor;
  EXPECT_TRUE(redactor.add_json(
      R"({"host_api_token":"CANARY-ONE","a":{"seeds":["CANARY-TWO"]},"image":"dstack-image"})"));
  EXPECT_FALSE(redactor.add_json("{"));
  EXPECT_EQ(redactor.apply("CANARY-ONE CANARY-TWO dstack-image"), "[redacted] [redacted] dstack-image");
}

TEST(Redact, KeyFilesLineByLine) {
  host::Redactor redactor;
  redactor.add_lines(
      "-----BEGIN PRIVATE KEY-----\nMIGHAgEAMBMGByqGSM49\nAgEGCCqGSM49\n-----END PRIVATE KEY-----\n");
  EXPECT_EQ(redactor.apply("log: AgEGCCqGSM49 MIGHAgEAMBMGByqGSM49"), "log: [redacted] [redacted]");
}
