// systemd unit files as text, a pure function of the service (spec/host.md section 1.7).
#pragma once

#include <string>
#include <string_view>

#include "host/service_manager.h"

namespace dstack::host {

// First line of every unit file of ours: files without it are somebody else's and are never changed.
inline constexpr std::string_view k_unit_marker = "# written by dstackup; 'dstackup destroy' removes it";

// [A-Za-z0-9._-], at most 200 characters, not starting with '.' or '-'. Code::invalid_argument.
base::Result<> check_unit_name(std::string_view name);

// One word of ExecStart=, Environment= or of a list of paths: double-quoted, with systemd's escapes; '%' is
// doubled. Code::invalid_argument for NUL and for what is not UTF-8: systemd cannot express them.
base::Result<std::string> quote_unit_word(std::string_view word);

// A value that takes the rest of its line (WorkingDirectory=, Description=): '%' is doubled.
// Code::invalid_argument for what systemd would read differently: control characters, white space at an end,
// a backslash at the end.
base::Result<std::string> plain_unit_value(std::string_view value);

// The whole of <name>.service: Type=notify, restarts with a limit, hardened as far as `spec.sandbox` allows.
// Paths the service needs below /home, /root, /run/user, /tmp and /var/tmp are mounted into its otherwise
// empty view of them; a file that is replaced by rename must therefore be named by its directory.
base::Result<std::string> render_unit(const ServiceSpec& spec);

}  // namespace dstack::host
