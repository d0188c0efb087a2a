// Where things are on the host (spec/host.md section 1.2): the system layout, or all of it below a prefix.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace dstack::host {

namespace fs = std::filesystem;

struct Layout {
  std::optional<fs::path> prefix;  // as given; absent = system layout
  fs::path bin;
  fs::path libexec;
  fs::path share;
  fs::path config;
  fs::path state;
  fs::path cache;
  fs::path run;
  std::optional<fs::path> image_path;  // --image-path: guest images that are not the installation's own

  // System layout without a prefix. Code::invalid_argument when the prefix is not usable (see
  // validate_directory).
  static base::Result<Layout> make(const std::optional<std::string>& prefix);

  fs::path state_file() const { return state / "dstackup-state.json"; }
  // What destroy without --purge leaves of the state file, so that a later install finds ports and the KMS
  // again.
  fs::path last_state_file() const { return state / "dstackup-state.last.json"; }
  fs::path journal() const { return state / "journal"; }
  // There while an upgrade is not known to be well.
  fs::path pending_upgrade() const { return state / "upgrade.json"; }
  fs::path install_lock() const { return state / "install.lock"; }
  fs::path images() const { return image_path ? *image_path : state / "images"; }
  fs::path volumes() const { return state / "volumes"; }
  fs::path volume_index() const { return volumes() / "index.json"; }
  fs::path vms() const { return state / "vm"; }
  fs::path logs() const { return state / "log"; }
  fs::path simulated_tee() const { return state / "simulated-tee"; }
  fs::path simulated_seed() const { return simulated_tee() / "seed"; }
  fs::path simulated_root() const { return simulated_tee() / "root.pem"; }
  fs::path token_file() const { return config / "vmm-auth-token"; }
  // The VMM's exposed address.
  fs::path tls_key() const { return config / "vmm-tls.key"; }
  fs::path tls_cert() const { return config / "vmm-tls.pem"; }
  fs::path vmm_toml() const { return config / "vmm.toml"; }
  fs::path kms_toml() const { return config / "kms.toml"; }
  fs::path kms_ca() const { return config / "kms-ca.pem"; }
  fs::path allowlist() const { return config / "auth-allowlist.json"; }
  fs::path supervisor_socket() const { return run / "supervisor.sock"; }
};

// UTF-8 without control characters, absolute, not "/", no segment "." or "..". `what` names it in the error
// ("--prefix").
base::Result<> validate_directory(const fs::path& path, std::string_view what);

// Is `path` the directory or in it, going by their names?
bool lies_in(const fs::path& path, const fs::path& directory);

// The suffix of unit names: `instance` if given (only [A-Za-z0-9._-], not empty), else "<slug>-<fnv1a32>" of
// the prefix, else "" for the system layout.
base::Result<std::string> instance_name(const std::optional<std::string>& instance,
                                        const std::optional<std::string>& prefix);

// "dstack-vmm" or "dstack-vmm-<instance>".
std::string unit_name(std::string_view service, std::string_view instance);

// Code::layout when something else than a directory is where one of the layout is or would be.
base::Result<> check_no_file_in_the_way(const Layout& layout);
// Creates `layout.state` if it is missing, in one step together with a journal that says which directories
// are ours: a crash at any point leaves either nothing or a journaled directory. Used by everything that
// writes there first.
base::Result<> ensure_state_directory(const Layout& layout);
// The reverse, for the last step of a purge: takes `root`, the outermost directory of ours around the state
// directory, out of the way in one step and removes it with the journal in it.
base::Result<> remove_state_root(const fs::path& root);
// Removes what a crash in either of them left, and not what another process is at work on. For destroy.
base::Result<> discard_unfinished_state_directory(const Layout& layout);

}  // namespace dstack::host
