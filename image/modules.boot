# Inserted by dstack-init from the root, before dstack-guest starts: one insertion each, instead of a modprobe process
# when podman or the kernel asks.
overlay
virtio_net
# the host share
vfat
nls_cp437
nls_ascii
nls_utf8
# container networks
bridge
veth
nf_tables
nft_ct
nft_nat
nft_masq
nft_chain_nat
nft_fib_inet
