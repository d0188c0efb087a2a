#!/bin/bash
# The whole path under a real systemd, with real guests: `deploy.sh before PROGRAMS IMAGES`, a reboot, `deploy.sh after
# PROGRAMS`. IMAGES is a prefix that `./dev images` filled. Runs in the machine of boot.sh.
set -euo pipefail
phase=$1 programs=$2
umask 022
. "$(dirname "$0")/common.sh"

app_answers() { curl --silent --fail --max-time 5 http://127.0.0.1:18080/ | grep -qi nginx; }
within() {
  local limit=$((SECONDS + $1)) start=$SECONDS
  shift
  until "$@" >/dev/null 2>&1; do
    [ "$SECONDS" -lt "$limit" ] || fail "not in time: $*"
    sleep 0.5
  done
  echo "  after $((SECONDS - start)) s: $*"
}
vm_units() { systemctl list-units --plain --no-legend --state=active 'dstack-vm-*' | awk '{ print $1 }'; }
qemus() { for unit in $(vm_units); do main_pid "$unit"; done; }
services_are_up() { systemctl --quiet is-active dstack-auth && systemctl --quiet is-active dstack-vmm; }

before() {
  for tool in curl qemu-system-x86_64 qemu-img; do
    command -v "$tool" >/dev/null || { echo "skipped: no $tool" >&2; exit 77; }
  done
  snapshot >/snapshot
  mkdir /var/lib/dstack
  cp -a "$1/var/lib/dstack/images" "$1/var/lib/dstack/volumes" /var/lib/dstack/

  step "install, with a KMS in its VM"
  expect "$programs/dstackup" install --platform simulated
  expect services_are_up

  step "deploy"
  printf 'services:\n  web:\n    image: localhost/hello-nginx:latest\n    ports: ["80:80"]\n' >/root/docker-compose.yaml
  expect "$programs/dstack" deploy -c /root/docker-compose.yaml -n hello --port 18080:80 --memory 1024
  expect app_answers
  rm /root/docker-compose.yaml
  expect [ "$(vm_units | wc -l)" = 2 ]
  local pid uids
  for pid in $(qemus); do
    expect grep -q 'CapEff:.0000000000000000' "/proc/$pid/status"
    expect [ "$(stat --format %u "/proc/$pid")" -ge 61184 ]
  done
  uids=$(for pid in $(qemus); do stat --format %u "/proc/$pid"; done | sort -u | wc -l)
  expect [ "$uids" = 2 ]

  step "the VMM crashes: the app does not notice, the VMM comes back"
  local vmm before_qemus
  before_qemus=$(qemus)
  vmm=$(main_pid dstack-vmm)
  kill -KILL "$vmm"
  expect app_answers
  within 20 services_are_up
  within 20 "$programs/dstackup" status
  expect [ "$(main_pid dstack-vmm)" != "$vmm" ]
  expect [ "$(qemus)" = "$before_qemus" ]
  expect app_answers
}

after() {
  step "after a reboot services and VMs are back, with the same keys"
  within 30 services_are_up
  within 240 app_answers
  within 240 "$programs/dstackup" status
  expect "$programs/dstackup" status
  expect [ "$(vm_units | wc -l)" = 2 ]
  # shellcheck disable=SC2046
  destroy_leaves_nothing $(qemus) "$(main_pid dstack-vmm)" "$(main_pid dstack-auth)"
}

"$phase" "${@:3}"
