#!/bin/bash
# Boots systemd as PID 1 on an overlay of this machine's own root and runs commands in it. Nothing is installed and
# nothing of the machine changes: what is written goes to a tmpfs, with its own mounts, processes, network and cgroups.
#
#   boot.sh [--bind DIR]... -- COMMAND [ARG]... [-- COMMAND [ARG]...]...
#
# Each command runs in a boot of its own on the same disk: before the next one the machine is shut down in order.
# Exit code: the first one that is not 0; 77 where this machine cannot do it.
set -euo pipefail

skip() { echo "skipped: $*" >&2; exit 77; }

if [ "${1:-}" != --in-namespace ]; then
  [ "$(id -u)" -eq 0 ] || skip "root is needed"
  [ -x /lib/systemd/systemd ] || skip "systemd is not installed"
  [ -x /usr/bin/dbus-daemon ] || skip "dbus is not installed"
  for tool in unshare nsenter setpriv pivot_root; do
    command -v "$tool" >/dev/null || skip "no $tool"
  done
  unshare --mount --pid --fork --cgroup --uts --ipc --net true 2>/dev/null || skip "no namespaces can be made"
  cgroup2=$(awk '$3 == "cgroup2" { print $2; exit }' /proc/self/mounts)
  [ -n "$cgroup2" ] || skip "no cgroup v2 is mounted"
  # What a run that was killed itself has left: an empty mount point and empty cgroups.
  for stale in "$cgroup2"/dstack-e2e-* /run/dstack-e2e-*; do
    [ -d "$stale" ] && [ ! -d "/proc/${stale##*-}" ] && find "$stale" -depth -type d -exec rmdir {} + 2>/dev/null
  done
  mkdir "$cgroup2/dstack-e2e-$$" 2>/dev/null || skip "no cgroup can be made in $cgroup2"
  mkdir "/run/dstack-e2e-$$"
  cleanup() {
    [ ! -f "$cgroup2/dstack-e2e-$$/cgroup.kill" ] || echo 1 >"$cgroup2/dstack-e2e-$$/cgroup.kill"
    for _ in $(seq 100); do
      find "$cgroup2/dstack-e2e-$$" -depth -type d -exec rmdir {} + 2>/dev/null && break
      sleep 0.05
    done
    rmdir "/run/dstack-e2e-$$"
  }
  trap cleanup EXIT
  trap 'exit 143' TERM INT HUP
  # In the background and waited for, so that a signal ends it at once; killed with this shell.
  setpriv --pdeathsig KILL unshare --mount --propagation private -- \
    "$0" --in-namespace "/run/dstack-e2e-$$" "$cgroup2/dstack-e2e-$$" "$@" &
  inner=$!
  trap 'kill -KILL $inner 2>/dev/null; exit 143' TERM INT HUP
  wait "$inner" && exit 0 || exit $?
fi

# --- in a mount namespace of its own
scratch=$2 cgroup=$3
shift 3
binds=()
while [ "${1:-}" = --bind ]; do
  binds+=("$2")
  shift 2
done
[ "${1:-}" = -- ] || { echo "boot.sh: expected '--' before the command" >&2; exit 2; }

mount -t tmpfs -o mode=755 dstack-e2e "$scratch" 2>/dev/null || skip "no tmpfs can be mounted"
mkdir "$scratch"/{lower,upper,work,root}
mount --bind / "$scratch/lower"
overlay() {
  mount -t overlay overlay -o "lowerdir=$scratch/lower,upperdir=$scratch/upper,workdir=$scratch/work" "$scratch/root"
}
overlay 2>/dev/null || skip "no overlay can be mounted"

# The disk: this machine's files without its services.
root=$scratch/root
rm -rf "$root"/etc/systemd/system/*.{wants,requires} "$root"/etc/systemd/system/dstack-* \
  "$root"/etc/dstack "$root"/var/{lib,cache}/dstack
rm -f "$root"/etc/rc?.d/*
: >"$root/etc/fstab"
: >"$root/etc/machine-id"
# What would ask questions, set up real hardware, or change settings of the one kernel that all share.
for unit in firstboot modules-load networkd resolved timesyncd udevd udev-trigger sysctl binfmt random-seed \
  update-utmp hwdb-update; do
  ln -sfn /dev/null "$root/etc/systemd/system/systemd-$unit.service"
done
for unit in getty@ console-getty; do
  ln -sfn /dev/null "$root/etc/systemd/system/$unit.service"
done
umount "$root"

# Becomes PID 1 of a machine: called in new namespaces.
machine() {
  local root=$1 node
  shift
  mount -t proc proc "$root/proc"
  for node in sys sysrq-trigger; do
    [ -e "$root/proc/$node" ] || continue
    mount --bind "$root/proc/$node" "$root/proc/$node"
    mount -o remount,bind,ro "$root/proc/$node"
  done
  mount -t sysfs -o ro sysfs "$root/sys"
  mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
  mount -t tmpfs -o mode=755 tmpfs "$root/run"
  mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
  # skopeo's cache below it changes whenever another test packs an image, and would do so under our eyes.
  [ ! -d "$root/var/lib/containers" ] || mount -t tmpfs -o mode=755 tmpfs "$root/var/lib/containers"
  mount -t tmpfs -o mode=755 tmpfs "$root/dev"
  mkdir "$root"/dev/{pts,shm,net}
  for node in null zero full random urandom tty kvm net/tun; do
    [ -e "/dev/$node" ] || continue
    : >"$root/dev/$node"
    mount --bind "/dev/$node" "$root/dev/$node"
  done
  mount -t devpts -o newinstance,ptmxmode=666 devpts "$root/dev/pts"
  mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
  ln -s pts/ptmx "$root/dev/ptmx"
  ln -s /proc/self/fd "$root/dev/fd"
  for node in "$@"; do
    mkdir -p "$root$node"
    mount --bind "$node" "$root$node"
    mount -o remount,bind,ro "$root$node"
  done
  ip link set lo up 2>/dev/null || true
  hostname dstack-e2e
  mkdir -p "$root/oldroot"
  cd "$root"
  pivot_root . oldroot
  umount -l /oldroot
  # systemd mounts credentials and private directories from a namespace of its own: without sharing nobody sees them.
  mount --make-rshared /
  exec env -i container=dstack-e2e PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    /lib/systemd/systemd --system --unit=multi-user.target --show-status=no --log-target=journal
}
export -f machine

inside() { nsenter --target "$leader" --mount --uts --ipc --net --pid --cgroup -- "$@"; }

boot() {
  overlay
  setpriv --pdeathsig KILL /bin/bash -c '
    echo $$ >"$1/cgroup.procs"
    shift
    exec unshare --mount --propagation private --pid --fork --kill-child=KILL --cgroup --uts --ipc --net -- \
      /bin/bash -euc '\''machine "$@"'\'' machine "$@"' boot "$cgroup" "$root" "${binds[@]}" </dev/null &
  runner=$!
  local state=
  for _ in $(seq 600); do
    sleep 0.05
    [ -d "/proc/$runner" ] || { echo "boot.sh: the machine ended while it booted" >&2; exit 1; }
    leader=$(tr -d ' ' 2>/dev/null <"/proc/$runner/task/$runner/children") || continue
    [ "$(cat "/proc/$leader/comm" 2>/dev/null)" = systemd ] || continue
    state=$(inside systemctl is-system-running 2>/dev/null) || true
    case $state in running | degraded) booted=1; return ;; esac
  done
  echo "boot.sh: the machine is '$state' after 30 s" >&2
  inside systemctl list-jobs >&2 || true
  # A machine where no systemd comes up at all (a chroot, a restricted container) cannot run this; one that came up
  # before must come up again.
  [ -n "${booted:-}" ] || skip "systemd does not boot in a container here"
  exit 1
}

# In order (SIGRTMIN+4 = power off), by force when that takes too long.
shut_down() {
  kill -RTMIN+4 "$leader"
  for _ in $(seq 400); do
    [ -d "/proc/$leader" ] || break
    sleep 0.05
  done
  kill -KILL "$runner" 2>/dev/null || true
  wait "$runner" 2>/dev/null || true
  umount "$root"
}

shift
while [ $# -gt 0 ]; do
  command=()
  while [ $# -gt 0 ] && [ "$1" != -- ]; do
    command+=("$1")
    shift
  done
  [ $# -eq 0 ] || shift
  boot
  code=0
  inside env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 \
    DSTACK_MACHINE=1 "${command[@]}" || code=$?
  if [ "$code" -ne 0 ] || [ $# -eq 0 ]; then
    kill -KILL "$runner" 2>/dev/null || true
    wait "$runner" 2>/dev/null || true
    exit "$code"
  fi
  shut_down
done
