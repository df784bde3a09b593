"""A real QEMU as hypervisor: its command line, its monitor (QMP), its processes."""
