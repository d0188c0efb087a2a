#include <unistd.h>

#include <algorithm>

#include "base/format.h"
#include "base/fs.h"
#include "base/log.h"
#include "base/process.h"
#include "base/utf8.h"
#include "host/image_use.h"
#include "host/install_plan.h"
#include "host/program_step.h"
#include "host/render.h"
#include "host/service_manager.h"
#include "host/supervised_processes.h"
#include "host/supervisor.h"
#include "host/tls_identity.h"
#include "host/vm_record.h"
#include "host/volume.h"

namespace dstack::host {

using base::Code;
using base::Result;

namespace {

std::filesystem::path own_directory() {
  std::error_code error;
  return std::filesystem::read_symlink("/proc/self/exe", error).parent_path();
}

std::filesystem::path program(const std::filesystem::path& directory, const char* name) {
  const auto path = directory / name;
  return ::access(path.c_str(), X_OK) == 0 ? path : std::filesystem::path();
}

bool has_image(const fs::path& images, const std::string& name) {
  std::error_code error;
  return check_image_name(name) && fs::exists(images / name / k_image_metadata, error);
}

// --image: one that is here, else a release to be pulled.
Result<std::optional<Image>> find_or_pull(const std::string& name, InstallFacts& facts) {
  const auto images = facts.layout.images();
  const auto wish = has_image(images, name) ? std::nullopt : as_release(name);
  if (!wish) {
    DS_TRY(auto image, find_image(images, name));
    return std::optional(std::move(image));
  }
  DS_TRY(const auto version, parse_release_version(wish->version));
  // What an earlier pull of it left needs no release server.
  const auto pulled = (wish->gpu ? "dstack-nvidia-" : "dstack-") + version;
  if (has_image(images, pulled)) {
    DS_TRY(auto image, find_image(images, pulled));
    return std::optional(std::move(image));
  }
  facts.image_to_pull = ReleaseWish{version, wish->gpu};
  return std::optional<Image>();
}

// --image, else what is installed, else the newest one that loads, else the latest release.
Result<std::optional<Image>> choose_image(const InstallOptions& options, InstallFacts& facts) {
  const auto images = facts.layout.images();
  if (options.image) {
    return find_or_pull(*options.image, facts);
  }
  const auto& known = facts.state ? facts.state : facts.last;
  if (known && known->image) {
    auto image = find_image(images, *known->image);
    if (image) {
      return std::optional(std::move(*image));
    }
    // Apps boot the pinned image and no other: another one is a decision, not a repair.
    if (facts.state) {
      auto error = std::move(image).error();
      error.fix =
          "bring it back with \"dstackup image build\" or \"dstackup image pull\", or choose another with "
          "--image";
      return fail(std::move(error),
                  base::format("the guest image {} of this installation cannot be used", *known->image));
    }
  }
  DS_TRY(auto all, list_images(images));
  // Without a digest an image cannot be pinned, so such ones are only taken when they may stay unpinned.
  const bool needs_digest = !options.no_kms && !options.allow_unpinned_image;
  while (needs_digest && !all.empty() && all.back().os_image_hash.empty()) {
    all.pop_back();
  }
  if (!all.empty()) {
    return std::optional(std::move(all.back()));
  }
  // The published images know real TEEs only, so that others are pulled when somebody says from where.
  const bool pullable = options.release_api || (facts.platform && facts.platform != PlatformKind::simulated);
  if (!options.no_kms && pullable) {
    facts.image_to_pull = ReleaseWish{};
  }
  return std::optional<Image>();
}

// Paths that are written to the record and the configuration as they are given; validate_directory() has the
// others.
Result<> check_paths(const InstallOptions& options) {
  for (const auto& [flag, path] :
       {std::pair{"--qemu", &options.qemu}, std::pair{"--programs-from", &options.programs_from},
        std::pair{"--vmm-bin", &options.vmm_bin}, std::pair{"--auth-bin", &options.auth_bin},
        std::pair{"--supervisor-bin", &options.supervisor_bin},
        std::pair{"--key-provider-src", &options.key_provider_src}}) {
    const auto odd = [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; };
    if (*path && (!base::is_utf8(**path) || std::ranges::any_of(**path, odd))) {
      return base::fail(Code::layout,
                        base::format("{} is not UTF-8 text, or has control characters in it", flag),
                        "choose a path of printable characters");
    }
  }
  return {};
}

void read_state(InstallFacts& facts) {
  auto state = load_state(facts.layout.state_file());
  if (state && !*state) {
    auto last = load_state(facts.layout.last_state_file());
    if (last) {
      facts.last = std::move(*last);
    } else {
      facts.state_problem = std::move(last).error();
    }
  } else if (state) {
    facts.state = std::move(*state);
  } else {
    facts.state_problem = std::move(state).error();
  }
}

// --image-path, else where the installation has its images.
Result<> choose_image_path(const InstallOptions& options, InstallFacts& facts) {
  const auto& known = facts.state ? facts.state : facts.last;
  const auto kept = known && !known->image_path.empty() ? std::optional(known->image_path) : std::nullopt;
  if (const auto& path = options.image_path ? options.image_path : kept) {
    DS_CHECK(validate_directory(*path, "--image-path"));
    facts.layout.image_path = *path;
  }
  return {};
}

// A directory flag, else what is installed, else the layout's.
Result<> choose_directory(const char* flag, const std::optional<std::string>& given, const std::string& kept,
                          const Layout& usual, fs::path& out) {
  const auto chosen = given.value_or(kept);
  if (chosen.empty() && !given) {
    return {};
  }
  DS_CHECK(validate_directory(chosen, flag));
  out = (fs::path(chosen) / "").lexically_normal().parent_path();
  for (const auto& own : {usual.config, usual.state, usual.cache, usual.run}) {
    if (lies_in(out, own)) {
      return base::fail(Code::layout, base::format("{} {} lies in {}", flag, out.string(), own.string()),
                        "name a directory that the installation does not use for other things");
    }
  }
  return {};
}

Result<> choose_directories(const InstallOptions& options, InstallFacts& facts) {
  const auto known = (facts.state ? facts.state : facts.last).value_or(InstallState{});
  const auto usual = facts.layout;
  DS_CHECK(choose_directory("--bin-dir", options.bin_dir, known.bin_dir, usual, facts.layout.bin));
  DS_CHECK(
      choose_directory("--libexec-dir", options.libexec_dir, known.libexec_dir, usual, facts.layout.libexec));
  DS_CHECK(choose_directory("--share-dir", options.share_dir, known.share_dir, usual, facts.layout.share));
  const auto owner = ProgramStore(facts.layout).owner();
  if (options.libexec_dir && owner && *owner != facts.layout.state) {
    return base::fail(Code::layout,
                      base::format("--libexec-dir {} has the programs of the installation in {}",
                                   facts.layout.libexec.string(), base::escape_control(owner->string())),
                      "name another directory");
  }
  return {};
}

// What is copied, and what is run as it is.
Result<> find_programs(const InstallOptions& options, InstallFacts& facts) {
  DS_TRY(facts.named, choose_named_programs({options.programs_from, options.skip_managed_binaries,
                                             options.vmm_bin, options.auth_bin, options.supervisor_bin},
                                            facts.state ? facts.state : facts.last));
  if (!facts.named.all) {
    auto programs = choose_programs(facts.layout, options.programs_from, own_directory(),
                                    facts.state ? facts.state->programs_dir : "");
    facts.program_directory = std::move(programs.directory);
    facts.programs = std::move(programs.set);
    facts.programs_note = std::move(programs.note);
  }
  const auto find = [&](const std::string& named, const char* name) {
    const fs::path path(named);
    return named.empty() ? program(facts.program_directory, name)
                         : program(path.parent_path(), path.filename().c_str());
  };
  facts.auth_program = find(facts.named.auth, "dstack-auth");
  facts.vmm_program = find(facts.named.vmm, "dstack-vmm");
  if (!facts.vmm_program.empty()) {
    facts.programs_version = program_version(facts.vmm_program).value_or("");
  }
  return {};
}

// "auto" is what is installed, else what the processor offers.
void settle_platform(std::optional<PlatformKind> wanted, InstallFacts& facts) {
  if (!wanted && facts.state) {
    const auto installed = parse_platform(facts.state->platform);
    wanted = installed ? *installed : std::nullopt;
  }
  facts.platform = wanted ? wanted : detect_platform(base::read_file("/proc/cpuinfo").value_or(""));
  if (auto chosen = choose_platform(facts.platform); !chosen) {
    facts.platform_problem = std::move(chosen).error();
  }
}

}  // namespace

std::string kms_image_reference(const InstallOptions& options, const InstallFacts& facts) {
  if (options.kms_image) {
    return *options.kms_image;
  }
  const auto& known = facts.state ? facts.state : facts.last;
  return known && !known->kms_image.empty() ? known->kms_image : "localhost/dstack-kms:" DSTACK_VERSION;
}

Result<InstallFacts> gather_facts(const InstallOptions& options) {
  DS_CHECK(check_paths(options));
  InstallFacts facts;
  facts.root = ::geteuid() == 0;
  DS_TRY(const auto wanted, parse_platform(options.platform));
  DS_TRY(facts.layout, Layout::make(options.prefix));
  DS_TRY(facts.instance, instance_name(options.instance, options.prefix));
  read_state(facts);
  DS_CHECK(choose_directories(options, facts));
  DS_CHECK(choose_image_path(options, facts));
  if (options.expose && *options.expose != "none") {
    // Only when it is asked for: one that was accepted once may be away for the moment.
    DS_CHECK(check_exposable(*options.expose));
  }
  settle_platform(wanted, facts);
  if (auto image = choose_image(options, facts)) {
    facts.image = std::move(*image);
  } else {
    facts.image_problem = std::move(image).error();
  }
  if (const auto& before = facts.state ? facts.state : facts.last; before && before->image) {
    facts.image_users = vms_with_image(facts.layout.vms(), *before->image);
  }
  if (!options.no_kms) {
    DS_TRY(const auto index, VolumeIndex::load(facts.layout.state));
    if (const auto* volume = index.find_by_image(kms_image_reference(options, facts))) {
      // The place where `dstack deploy` puts image stores too.
      facts.kms_volumes = {{volume->file, volume->verity_root, "/run/dstack/image-stores/" + volume->name}};
      facts.kms_image_in_volume = true;
    }
  }
  DS_CHECK(find_programs(options, facts));
  const auto& known = facts.state;
  facts.qemu =
      base::find_tool(
          options.qemu.value_or(known && !known->qemu_path.empty() ? known->qemu_path : "qemu-system-x86_64"))
          .value_or("");
  OwnInstall own{facts.layout.vmm_toml(), facts.layout.vms(), {}};
  for (const auto& vm : live_vms(facts.layout.vms())) {
    own.vm_processes.push_back(vm.pid);
  }
  facts.others = scan_other_vmms(own);
  facts.memory_mib = available_memory_mib();
  facts.disk_mib = free_disk_mib(facts.layout.state);
  ServiceManagerOptions manager_options;
  manager_options.layout = facts.layout;
  manager_options.instance = facts.instance;
  manager_options.may_start = false;
  DS_TRY(const auto manager, open_service_manager(manager_options));
  facts.service_manager = manager->kind();
  if (known) {
    const ProgramStore store(facts.layout);
    const auto look = [&](const std::string& unit, bool& active, std::string& set) {
      const auto status = manager->status(unit);
      active = status && status->state == ServiceState::active;
      set = active ? set_of_process(store, status->pid) : "";
    };
    look(known->auth_unit, facts.auth_running, facts.auth_set);
    look(known->vmm_unit, facts.vmm_running, facts.vmm_set);
    if (manager->kind() == "supervisor") {
      const auto found = find_supervised(facts.layout);
      facts.auth_stray = !facts.auth_running && found.has_service(known->auth_unit);
      facts.vmm_stray = !facts.vmm_running && found.has_service(known->vmm_unit);
    }
    // One that a killed install made, and did not come to record, is known by its name.
    const auto live = live_vms(facts.layout.vms());
    facts.kms_running = std::ranges::any_of(live, [&](const LiveVm& vm) {
      return known->kms_vm_id ? vm.id == *known->kms_vm_id
                              : vm_name(facts.layout.vms() / vm.id) == k_kms_vm_name;
    });
  }
  facts.vms_running = !live_vms(facts.layout.vms()).empty();
  if (manager->kind() == "supervisor") {
    DS_TRY(const auto root, supervisor_cgroup_root(facts.instance));
    facts.cgroup_root = root.empty() ? "" : root + "/vms";
  }
  return facts;
}

}  // namespace dstack::host
