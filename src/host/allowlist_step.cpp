#include "host/allowlist_step.h"

#include <sys/stat.h>

#include "app/allowlist_file.h"
#include "base/format.h"

namespace dstack::host {

using base::Result;
using Kind = JournalEntry::Kind;

namespace {

struct ImageRule {
  std::string pin;     // "" = none
  std::string former;  // digest that is taken away, "" = none
  bool any = false;    // --allow-unpinned-image, and there is no digest
};

bool holds(const app::Allowlist& list, const ImageRule& rule) {
  if (rule.any) {
    return list.allow_any_os_image && list.os_images.empty();
  }
  return !list.allow_any_os_image && (rule.pin.empty() || list.os_images.contains(rule.pin)) &&
         (rule.former.empty() || !list.os_images.contains(rule.former));
}

std::string reason(const InstallPlan& plan) {
  if (!plan.image_to_pull.empty()) {
    return "the guest image that is pulled may get keys";
  }
  if (plan.allow_any_image) {
    return "any guest image may get keys, as --allow-unpinned-image says";
  }
  if (plan.image.empty()) {
    return "there is no guest image yet, so none is added";
  }
  return plan.os_image_hash.empty()
             ? base::format("the guest image {} has no digest, so it is not added", plan.image)
             : "guest image " + plan.os_image_hash.substr(0, 16) + "… may get keys";
}

// Merged under its lock: apps stay, and images that somebody else added. Closed before anything is added.
Result<bool> apply(const app::AllowlistFile& file, const ImageRule& rule) {
  DS_TRY(bool changed, file.create_if_missing());
  const auto note = [&](Result<bool> done) -> Result<> {
    DS_TRY(const bool written, std::move(done));
    changed |= written;
    return {};
  };
  DS_CHECK(note(file.set_kms_allow_any_device(true)));
  if (rule.any) {
    DS_CHECK(note(file.allow_any_image()));
    return changed;
  }
  DS_CHECK(note(file.deny_unlisted_images()));
  if (!rule.pin.empty()) {
    DS_CHECK(note(file.pin_image(rule.pin)));
  }
  if (!rule.former.empty()) {
    DS_CHECK(note(file.unpin_image(rule.former)));
  }
  return changed;
}

}  // namespace

InstallStep allowlist_step(InstallContext& context) {
  const auto& plan = context.plan;
  const auto path = plan.layout.allowlist();
  const ImageRule rule{plan.os_image_hash, plan.former_image_hash, plan.allow_any_image};
  InstallStep step{
      "allow-list",
      reason(plan),
      {{Kind::file, path.string(), "allow-list"}, {Kind::file, path.string() + ".lock", "allow-list"}},
      {},
      {}};
  step.pending = [path, rule]() -> std::string {
    struct stat info = {};
    if (::lstat(path.c_str(), &info) != 0) {
      return "make";
    }
    const auto loaded = app::load_allowlist(path);
    if (!loaded) {
      return "cannot be used: " + loaded.error().what();
    }
    return loaded->allowlist.kms_allow_any_device && holds(loaded->allowlist, rule) ? "" : "change";
  };
  step.apply = [path, rule] { return apply(app::AllowlistFile(path), rule); };
  return step;
}

void settle_former_pin(const InstallFacts& facts, InstallPlan& plan) {
  const auto& known = facts.state ? facts.state : facts.last;
  if (!known || known->os_image_hash.empty() || known->os_image_hash == plan.os_image_hash ||
      plan.allow_any_image) {
    return;
  }
  if (facts.image_users.empty()) {
    plan.former_image_hash = known->os_image_hash;
    return;
  }
  std::string users;
  for (const auto& user : facts.image_users) {
    users += (users.empty() ? "" : ", ") + user;
  }
  plan.warnings.push_back(base::format(
      "{} may still get keys, since VMs use it: {}; take that back with 'dstackup image unpin {}'",
      known->image.value_or("the former guest image"), users, known->os_image_hash));
}

}  // namespace dstack::host
