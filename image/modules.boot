# Inserted by dstack-init from the root, before dstack-guest starts: one insertion each, instead of a modprobe process
# when somebody asks.
overlay
virtio_net
# the host share
vfat
nls_cp437
nls_ascii
