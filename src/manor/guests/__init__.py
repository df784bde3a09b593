"""The default guest: a kernel and an initramfs made from the distribution's own packages."""
