"""The domains of a driver with a hypervisor of its own: what is defined, what runs, how one becomes the other."""
