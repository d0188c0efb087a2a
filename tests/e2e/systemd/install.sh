#!/bin/bash
# dstackup under a real systemd, in the machine of boot.sh: `install.sh before PROGRAMS`, a reboot, `install.sh after
# PROGRAMS`. The VM is real QEMU with a guest that does nothing, so this needs no guest image.
set -euo pipefail
phase=$1 programs=$2
umask 022

step() { echo "=== $*"; }
fail() {
  echo "FAILED: $*" >&2
  systemctl --no-pager --full status 'dstack-*' >&2 || true
  journalctl --no-pager -n 40 >&2 || true
  tail -n 20 /var/lib/dstack/vm/*/*.log >&2 || true
  exit 1
}
expect() { "$@" || fail "$*"; }
# What lies around on this machine, without what systemd keeps and what the machine outside may be changing.
snapshot() {
  find /etc /usr/local /srv /opt /var -xdev -maxdepth 4 \( -path /var/log -o -path /var/lib/systemd -o -path /var/tmp \
    -o -path /var/cache/apt -o -path /var/lib/apt -o -path /var/lib/dpkg \) -prune -o -print | sort
}
main_pid() { systemctl show --property MainPID --value "$1"; }
is_running() { [ "$1" -gt 1 ] && [ -d "/proc/$1" ]; }
rpc() {
  curl --silent --show-error --fail-with-body --max-time 30 --header "Authorization: Bearer $(</etc/dstack/vmm-auth-token)" \
    --header 'Content-Type: application/json' --data "$2" "http://127.0.0.1:9080/prpc/$1?json"
}
eventually() {
  for _ in $(seq 100); do
    if "$@" >/dev/null 2>&1; then return 0; fi
    sleep 0.1
  done
  fail "not within 10 s: $*"
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
  "$programs/dstackup" install --platform simulated --no-kms --bin-dir /tmp/broken >/tmp/out 2>&1 || code=$?
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
  expect systemd-analyze security --no-pager --threshold=15 dstack-auth >/dev/null
  expect systemd-analyze security --no-pager --threshold=20 dstack-vmm >/dev/null

  step "a second install disturbs nothing"
  local auth vmm
  auth=$(main_pid dstack-auth) vmm=$(main_pid dstack-vmm)
  expect "$programs/dstackup" install --platform simulated --no-kms
  expect [ "$(main_pid dstack-auth)" = "$auth" ]
  expect [ "$(main_pid dstack-vmm)" = "$vmm" ]

  step "a VM is a unit of its own"
  make_image /var/lib/dstack/images/halt-0.5.4
  expect "$programs/dstackup" install --platform simulated --no-kms --image halt-0.5.4
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
  eventually vm_is_listed_as running

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

  step "destroy leaves nothing"
  expect "$programs/dstackup" destroy --purge
  for pid in "$qemu" "$vmm" "$auth"; do
    expect [ ! -d "/proc/$pid" ]
  done
  expect [ -z "$(systemctl list-units --all --plain --no-legend 'dstack*')" ]
  expect [ ! -e /sys/fs/cgroup/dstack.slice ]
  expect [ ! -e /run/dstack ]
  expect [ -z "$(ss --listening --tcp --numeric --no-header 'sport = :9080 or sport = :8001 or sport = :10000')" ]
  snapshot | diff /snapshot - || fail "files were left or taken"
  expect [ "$(systemctl is-system-running)" = running ]
}

"$phase"
