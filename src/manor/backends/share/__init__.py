"""A folder of the host for a guest: a server of the FUSE protocol, which virtio-fs carries."""
