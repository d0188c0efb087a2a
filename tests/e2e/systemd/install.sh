#!/bin/bash
# dstackup under a real systemd, in the machine of boot.sh: `install.sh before PROGRAMS`, a reboot, `install.sh after
# PROGRAMS`. The VM is real QEMU with a guest that does nothing, so this needs no guest image.
set -euo pipefail
phase=$1 programs=$2
umask 022

. "$(dirname "$0")/common.sh"

rpc() {
  curl --silent --show-error --fail-with-body --max-time 30 --header "Authorization: Bearer $(</etc/dstack/vmm-auth-token)" \
    --header 'Content-Type: application/json' --data "$2" "http://127.0.0.1:9080/prpc/$1?json"
}
vm_is_listed_as() { rpc Status '{}' | grep -q "\"status\":\"$1\""; }
restarted_from() { [ "$(main_pid dstack-vmm)" -gt 1 ] && [ "$(main_pid dstack-vmm)" != "$1" ] && rpc Version '{}'; }

# The smallest kernel that a boot loader accepts: a set-up header whose code halts.
make_image() {
  local directory=$1
  mkdir -p "$directory"
  head -c 4096 /dev/zero >"$directory/bzImage"
  put() { printf "$2" | dd of="$directory/bzImage" bs=1 seek="$(($1))" conv=notrunc status=none; }
  put 0x1f1 '\x01'              # sectors of set-up code
  put 0x1fe '\x55\xaa'
  put 0x200 '\xeb\x66HdrS\x0c\x02' # jump over the header; its magic and version
  put 0x211 '\x01'              # loaded high
  put 0x22c '\xff\xff\xff\x7f'  # where an initrd may end
  put 0x268 '\xfa\xf4\xeb\xfd'  # cli; hlt; again
  head -c 512 /dev/zero >"$directory/initrd"
  head -c 1048576 /dev/zero >"$directory/rootfs.verity"
  printf '{"cmdline":"quiet","kernel":"bzImage","initrd":"initrd","rootfs":"rootfs.verity","rootfs_hash":"%064d","version":"0.5.4"}' 0 \
    >"$directory/metadata.json"
  (cd "$directory" && sha256sum bzImage initrd rootfs.verity metadata.json >sha256sum.txt &&
    sha256sum sha256sum.txt | cut -d' ' -f1 >digest.txt)
}

before() {
  for tool in curl qemu-system-x86_64 qemu-img; do
    command -v "$tool" >/dev/null || { echo "skipped: no $tool" >&2; exit 77; }
  done
  snapshot >/snapshot

  step "a service that does not start: install says why and fails"
  mkdir /tmp/broken
  cp "$programs/dstack-auth" /tmp/broken/dstack-auth
  printf '#!/bin/sh\necho "something is wrong with this machine" >&2\nexit 9\n' >/tmp/broken/dstack-vmm
  chmod +x /tmp/broken/dstack-vmm
  local code=0
  "$programs/dstackup" install --platform simulated --no-kms --programs-from /tmp/broken >/tmp/out 2>&1 || code=$?
  cat /tmp/out
  expect [ "$code" -ne 0 ]
  expect grep -q 'something is wrong with this machine' /tmp/out
  expect grep -q 'exit code 9' /tmp/out
  expect [ "$(systemctl is-active dstack-vmm || true)" != active ]

  step "install converges"
  expect "$programs/dstackup" install --platform simulated --no-kms
  for unit in dstack-auth dstack-vmm; do
    expect systemctl --quiet is-active "$unit"
    expect systemctl --quiet is-enabled "$unit"
  done
  expect "$programs/dstackup" status
  rpc Version '{}' || fail "the VMM does not answer"
  expect grep -q 'NoNewPrivs:.1' "/proc/$(main_pid dstack-vmm)/status"
  expect grep -q 'CapEff:.0000000000000000' "/proc/$(main_pid dstack-vmm)/status"
  expect [ "$(systemctl show --property MemoryMax --value dstack-vmm)" = $((1 << 30)) ]
  expect [ "$(systemctl show --property TasksMax --value dstack-vmm)" = 512 ]
  expect systemd-analyze security --no-pager --threshold=15 dstack-auth >/dev/null
  expect systemd-analyze security --no-pager --threshold=20 dstack-vmm >/dev/null

  step "a second install disturbs nothing"
  local auth vmm
  auth=$(main_pid dstack-auth) vmm=$(main_pid dstack-vmm)
  expect "$programs/dstackup" install --platform simulated --no-kms
  expect [ "$(main_pid dstack-auth)" = "$auth" ]
  expect [ "$(main_pid dstack-vmm)" = "$vmm" ]

  step "a VM is a unit of its own"
  make_image /root/images/halt-0.5.4 # where the sandbox shows only what the unit names
  expect "$programs/dstackup" install --platform simulated --no-kms --image-path /root/images --image halt-0.5.4
  rpc CreateVm '{"name":"halted","image":"halt-0.5.4","vcpu":1,"memory":256,"disk_size":1,
    "compose_file":"{\"manifest_version\":2,\"name\":\"halted\",\"runner\":\"docker-compose\",\"docker_compose_file\":\"services: {}\"}"}' ||
    fail "no VM was made"
  local id unit qemu
  unit=$(systemctl list-units --plain --no-legend 'dstack-vm-*' | awk '{ print $1 }')
  id=${unit#dstack-vm-} id=${id%.service}
  expect [ -f "/var/lib/dstack/vm/$id/qemu.json" ]
  qemu=$(main_pid "$unit")
  expect is_running "$qemu"
  expect grep -q "\"pid\":$qemu," "/var/lib/dstack/vm/$id/qemu.json"
  expect grep -q 'CapEff:.0000000000000000' "/proc/$qemu/status"
  expect grep -q 'CapBnd:.0000000000000000' "/proc/$qemu/status"
  eventually vm_is_listed_as running

  step "QEMU has a user of its own, which gets at nothing"
  local uid file
  uid=$(stat --format %u "/proc/$qemu")
  expect [ "$uid" -ge 61184 ]
  expect [ "$uid" -le 65519 ]
  for file in /etc/dstack/vmm-auth-token "/var/lib/dstack/vm/$id/shared.img" "/var/lib/dstack/vm/$id/hda.img" \
    "/var/lib/dstack/vm/$id/serial.log" /var/lib/dstack/simulated-tee/seed; do
    expect [ -f "$file" ]
    if setpriv --reuid "$uid" --regid "$uid" --clear-groups cat "$file" >/dev/null 2>&1; then fail "$uid reads $file"; fi
  done
  [ "$(systemctl show --property MemoryMax --value "$unit")" -gt $((256 * 1024 * 1024)) ] || fail "no limit of memory"
  [ "$(systemctl show --property TasksMax --value "$unit")" -lt 1000 ] || fail "no limit of tasks"

  step "the VMM stops it and starts it again"
  rpc StopVm "{\"id\":\"$id\"}" || fail "the VM was not stopped"
  eventually [ ! -d "/proc/$qemu" ] # a zombie until systemd has seen it
  eventually vm_is_listed_as stopped
  rpc StartVm "{\"id\":\"$id\"}" || fail "the VM was not started"
  eventually vm_is_listed_as running
  qemu=$(main_pid "$unit")
  expect is_running "$qemu"

  step "the VM goes on while the VMM is killed, restarted and stopped"
  vmm=$(main_pid dstack-vmm)
  kill -KILL "$vmm"
  eventually restarted_from "$vmm"
  eventually vm_is_listed_as running
  expect [ "$(main_pid "$unit")" = "$qemu" ]
  systemctl restart dstack-vmm
  eventually vm_is_listed_as running
  systemctl stop dstack-vmm
  expect is_running "$qemu"
  systemctl start dstack-vmm
  eventually vm_is_listed_as running
  expect [ "$(main_pid "$unit")" = "$qemu" ]

  step "upgraded programs see the images too"
  mkdir /tmp/other
  cp "$programs"/{dstackup,dstack,dstack-auth,dstack-vmm} /tmp/other
  for program in /tmp/other/*; do echo >>"$program"; done # bytes behind an ELF file mean nothing
  expect "$programs/dstackup" upgrade --from /tmp/other
  rpc ListImages '{}' | grep -q halt-0.5.4 || fail "the VMM does not see the images"
  expect "$programs/dstackup" rollback
  expect [ "$(main_pid "$unit")" = "$qemu" ]
  echo "$unit" >/vm-unit
}

after() {
  step "everything is back after a reboot"
  for unit in dstack-auth dstack-vmm; do
    eventually systemctl --quiet is-active "$unit"
  done
  expect "$programs/dstackup" status
  eventually vm_is_listed_as running
  local unit qemu vmm auth
  unit=$(</vm-unit)
  qemu=$(main_pid "$unit") vmm=$(main_pid dstack-vmm) auth=$(main_pid dstack-auth)
  expect is_running "$qemu"

  destroy_leaves_nothing "$qemu" "$vmm" "$auth"
}

"$phase"
