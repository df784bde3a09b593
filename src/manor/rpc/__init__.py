"""libvirt's remote protocol, both ends of it. Bytes in, events out: only `transport` touches sockets."""
