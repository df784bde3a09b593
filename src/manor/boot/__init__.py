"""Puts a kernel, its initramfs and the firmware tables into guest memory and says how the CPU enters it."""
