#include "kms_stage.h"

#include <thread>

#include "app/app_compose.h"
#include "base/format.h"
#include "base/fs.h"
#include "base/log.h"
#include "context.h"
#include "host/install_steps.h"
#include "host/kms_contact.h"
#include "host/render.h"
#include "host/vm_record.h"

namespace dstack::dstackup {

using base::Code;
using base::Result;
using Clock = std::chrono::steady_clock;

namespace {

constexpr const char* k_name = host::k_kms_vm_name;
constexpr std::chrono::milliseconds k_poll{250};
// The VMM starts a VM that ended early again; only one that stays down has failed.
constexpr std::chrono::seconds k_down_limit{15};
// From the start of its container to the first answer.
constexpr std::chrono::seconds k_done_limit{120};

Result<std::string> make_compose(const host::InstallPlan& plan) {
  host::KmsAppValues values;
  values.image = plan.kms_image;
  values.kms_toml = host::kms_configuration(plan);
  values.local_key_provider = plan.platform == "tdx";
  values.volumes = plan.kms_volumes;
  if (plan.platform == "simulated") {
    DS_TRY(values.simulated_root_pem, base::read_file(plan.layout.simulated_root()));
  }
  return app::build_app_compose(host::make_kms_manifest(values));
}

::vmm::VmConfiguration make_configuration(const host::InstallPlan& plan, const std::string& compose) {
  ::vmm::VmConfiguration out;
  out.set_name(k_name);
  out.set_image(plan.image);
  out.set_compose_file(compose);
  // Enough for the KMS in an emulated VM; upstream's 4 CPUs and 8 GiB are for hardware.
  out.set_vcpu(plan.platform == "simulated" ? 1 : 4);
  out.set_memory(plan.platform == "simulated" ? 1024 : 8192);
  out.set_disk_size(plan.platform == "simulated" ? 4 : 20);
  auto* port = out.add_ports();
  port->set_protocol("tcp");
  port->set_host_address("127.0.0.1");
  port->set_host_port(plan.kms_port);
  port->set_vm_port(8000);
  return out;
}

Result<std::optional<::vmm::VmInfo>> find_kms(const KmsStage& stage) {
  if (stage.plan.state.kms_vm_id) {
    DS_TRY(auto info, stage.vmm.info(*stage.plan.state.kms_vm_id));
    if (info) {
      return info;
    }
  }
  DS_TRY(auto all, stage.vmm.vms());
  for (auto& vm : all) {
    if (vm.name() == k_name) {
      return std::optional(std::move(vm));
    }
  }
  return std::optional<::vmm::VmInfo>();
}

Result<> save(const KmsStage& stage) {
  const auto path = stage.plan.layout.state_file();
  return host::save_state(path, stage.plan.state);
}

Result<> remove_and_wait(const KmsStage& stage, const std::string& id) {
  if (auto stopped = stage.vmm.stop(id); !stopped) {
    base::log_debug(stopped.error().what());
  }
  DS_CHECK(stage.vmm.remove(id));
  for (const auto end = Clock::now() + std::chrono::seconds(30); Clock::now() < end;) {
    DS_TRY(const auto info, stage.vmm.info(id));
    if (!info) {
      return {};
    }
    std::this_thread::sleep_for(k_poll);
  }
  return base::fail(Code::timeout, "the unfinished KMS VM does not go away", "see the log of dstack-vmm");
}

Result<std::string> create(const KmsStage& stage, const std::string& compose) {
  stage.progress.step(base::format("KMS: creating its VM from {}", stage.plan.kms_image));
  DS_CHECK(stage.journal.record({host::JournalEntry::Kind::vm, k_name, "KMS"}));
  DS_TRY(auto id, stage.vmm.create(make_configuration(stage.plan, compose)));
  DS_CHECK(stage.journal.record({host::JournalEntry::Kind::vm, id, "KMS"}));
  stage.plan.state.kms_vm_id = id;
  DS_CHECK(save(stage));
  return id;
}

std::string last_log_lines(const KmsStage& stage, const std::string& id) {
  std::string out;
  client::LogQuery query;
  query.id = id;
  query.lines = 12;
  const auto read = stage.vmm.logs(query, [&](std::string_view chunk) {
    out += chunk;
    return out.size() < 8192;
  });
  if (!read || out.empty()) {
    return {};
  }
  std::string indented;
  for (std::size_t at = 0; at < out.size();) {
    const auto end = std::min(out.find('\n', at), out.size());
    indented += "\n    " + base::escape_control(std::string_view(out).substr(at, end - at));
    at = end + 1;
  }
  return indented;
}

base::Error not_ready(std::string why) {
  return {Code::kms_not_ready, "the KMS did not become ready", std::move(why),
          "see 'dstack logs dstack-kms'; run install again to go on, or 'dstackup destroy --purge' to take "
          "all away"};
}

Result<host::KmsContact> wait_until_ready(const KmsStage& stage, const std::string& id,
                                          const host::KmsExpectation& expected) {
  const auto begin = Clock::now();
  auto last_running = begin;
  auto last_not_done = begin;
  std::string shown;
  while (true) {
    DS_TRY(const auto info, stage.vmm.info(id));
    if (!info) {
      return base::fail(not_ready("its VM was removed"));
    }
    if (!info->boot_error().empty()) {
      return base::fail(not_ready(info->boot_error()));
    }
    if (info->status() == "running") {
      last_running = Clock::now();
    } else if (info->status() == "stopped" || Clock::now() - last_running > k_down_limit) {
      return base::fail(not_ready("its VM is " + info->status() + last_log_lines(stage, id)));
    }
    const auto progress = base::escape_control(info->boot_progress());
    if (progress != shown) {
      stage.progress.step("KMS: " + progress);
      shown = progress;
    }
    auto contact = host::contact_kms(expected);
    if (contact || contact.error().code == Code::kms_identity) {
      return contact;
    }
    stage.progress.waiting("the KMS to answer");
    if (info->boot_progress() != "done") {
      last_not_done = Clock::now();
    }
    if (Clock::now() - begin > stage.limit || Clock::now() - last_not_done > k_done_limit) {
      const auto waited = cli::format_seconds(Clock::now() - begin);
      return base::fail(not_ready(base::format("no answer within {}: {}", waited, contact.error().what()) +
                                  last_log_lines(stage, id)));
    }
    std::this_thread::sleep_for(k_poll);
  }
}

Result<> pin(const KmsStage& stage, const host::KmsContact& contact) {
  auto& state = stage.plan.state;
  const auto path = stage.plan.layout.kms_ca();
  DS_CHECK(stage.journal.record({host::JournalEntry::Kind::file, path.string(), "KMS root certificate"}));
  DS_CHECK(base::write_file_atomic(path, contact.ca_pem, {.mode = 0644, .force_mode = true}));
  state.kms_ca_cert = path.string();
  state.kms_ca_sha256 = contact.ca_sha256;
  return save(stage);
}

}  // namespace

Result<bool> bring_up_kms(const KmsStage& stage) {
  auto& state = stage.plan.state;
  DS_TRY(auto compose, make_compose(stage.plan));
  DS_TRY(auto existing, find_kms(stage));
  const bool pinned = !state.kms_ca_cert.empty();
  bool changed = false;
  if (existing && !pinned && (existing->status() != "running" || !existing->boot_error().empty())) {
    stage.progress.step("KMS: removing a VM that never became ready");
    DS_CHECK(remove_and_wait(stage, existing->id()));
    existing.reset();
  }
  if (!existing && pinned) {
    return base::fail(Code::kms_identity,
                      "the KMS's VM is gone, and with it the keys of the apps that it served",
                      "restore " + stage.plan.layout.vms().string() +
                          " from a backup, or 'dstackup destroy --purge' and install again");
  }
  host::KmsExpectation expected;
  expected.port = stage.plan.kms_port;
  DS_TRY(expected.anchors, host::trust_anchors(stage.plan.layout, stage.plan.platform));
  std::string id;
  if (existing) {
    id = existing->id();
    // It stays what it was made as: its code and image are what its evidence must say.
    compose = existing->configuration().compose_file();
    if (state.kms_vm_id != id) {
      state.kms_vm_id = id;
      DS_CHECK(save(stage));
    }
    if (existing->status() != "running") {
      stage.progress.step("KMS: starting its VM");
      if (auto started = stage.vmm.start(id); !started) {
        // A VMM that has just come up may have started it meanwhile.
        DS_TRY(const auto now, stage.vmm.info(id));
        if (!now || now->status() != "running") {
          return base::fail(std::move(started).error(), "the KMS's VM cannot be started");
        }
      }
      changed = true;
    }
    // Of the image that it runs: the directory may hold a newer one of that name.
    expected.os_image_hash = host::started_image_hash(stage.plan.layout.vms() / id);
    if (expected.os_image_hash.empty()) {
      if (auto image = host::find_image(stage.plan.layout.images(), existing->configuration().image())) {
        expected.os_image_hash = image->os_image_hash;
      }
    }
  } else {
    DS_TRY(id, create(stage, compose));
    const auto image = host::find_image(stage.plan.layout.images(), stage.plan.image);
    expected.os_image_hash = image ? image->os_image_hash : "";
    changed = true;
  }
  expected.compose_hash = app::compose_hash(compose);
  if (pinned) {
    DS_TRY(expected.pinned_ca_pem, base::read_file(state.kms_ca_cert));
  }
  DS_TRY(const auto contact, wait_until_ready(stage, id, expected));
  if (!pinned) {
    DS_CHECK(pin(stage, contact));
    changed = true;
  }
  return changed;
}

}  // namespace dstack::dstackup
