# Sourced by the scripts that run in the machine of boot.sh.
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
eventually() {
  for _ in $(seq 100); do
    if "$@" >/dev/null 2>&1; then return 0; fi
    sleep 0.1
  done
  fail "not within 10 s: $*"
}

# destroy --purge, then: no process of these, no unit, cgroup, port or file, and a system that is in order.
destroy_leaves_nothing() {
  step "destroy leaves nothing"
  expect "$programs/dstackup" destroy --purge
  for pid in "$@"; do
    eventually [ ! -d "/proc/$pid" ]
  done
  expect [ -z "$(systemctl list-units --all --plain --no-legend 'dstack*')" ]
  expect [ ! -e /sys/fs/cgroup/dstack.slice ]
  expect [ ! -e /run/dstack ]
  expect [ -z "$(ss --listening --tcp --numeric --no-header 'sport = :9080 or sport = :8001 or sport = :10000')" ]
  snapshot | diff /snapshot - || fail "files were left or taken"
  expect [ "$(systemctl is-system-running)" = running ]
}
