"""libvirt daemons and what they hold, as Python objects: `connect(uri)` is where to start."""
