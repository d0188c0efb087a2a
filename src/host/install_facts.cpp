#include <unistd.h>

#include "base/format.h"
#include "base/fs.h"
#include "base/process.h"
#include "host/install_plan.h"
#include "host/program_step.h"
#include "host/render.h"
#include "host/service_manager.h"
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

// --image, else what is installed, else the newest one that loads.
Result<std::optional<Image>> choose_image(const InstallOptions& options, const InstallFacts& facts) {
  const auto images = facts.layout.images();
  if (options.image) {
    DS_TRY(auto image, find_image(images, *options.image));
    return std::optional(std::move(image));
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
  return all.empty() ? std::optional<Image>() : std::optional(std::move(all.back()));
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
  InstallFacts facts;
  facts.root = ::geteuid() == 0;
  DS_TRY(const auto wanted, parse_platform(options.platform));
  DS_TRY(facts.layout, Layout::make(options.prefix));
  DS_TRY(facts.instance, instance_name(options.instance, options.prefix));
  read_state(facts);
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
  if (!options.no_kms) {
    DS_TRY(const auto index, VolumeIndex::load(facts.layout.state));
    if (const auto* volume = index.find_by_image(kms_image_reference(options, facts))) {
      // The place where `dstack deploy` puts image stores too.
      facts.kms_volumes = {{volume->file, volume->verity_root, "/run/dstack/image-stores/" + volume->name}};
      facts.kms_image_in_volume = true;
    }
  }
  auto programs = choose_programs(facts.layout, options.bin_dir, own_directory());
  facts.program_directory = std::move(programs.directory);
  facts.programs = std::move(programs.set);
  facts.programs_note = std::move(programs.note);
  facts.auth_program = program(facts.program_directory, "dstack-auth");
  facts.vmm_program = program(facts.program_directory, "dstack-vmm");
  if (!facts.vmm_program.empty()) {
    facts.programs_version = program_version(facts.vmm_program).value_or("");
  }
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
  if (known) {
    const auto active = [&](const std::string& unit) {
      const auto status = manager->status(unit);
      return status && status->state == ServiceState::active;
    };
    facts.auth_running = active(known->auth_unit);
    facts.vmm_running = active(known->vmm_unit);
    facts.kms_running = known->kms_vm_id && read_live_vm(facts.layout.vms() / *known->kms_vm_id).has_value();
  }
  facts.vms_running = !live_vms(facts.layout.vms()).empty();
  if (manager->kind() == "supervisor") {
    const auto root = supervisor_cgroup_root(facts.instance);
    facts.cgroup_root = root.empty() ? "" : root + "/vms";
  }
  return facts;
}

}  // namespace dstack::host
