"""The host's end of virtio-vsock: streams between programs of the guest and of the host, without the host's kernel."""
