"""NVM Express: the disk for guests without virtio drivers."""
