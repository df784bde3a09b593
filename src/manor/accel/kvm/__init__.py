"""Accelerator `kvm`: guests run on the processor's own virtualization, through Linux's /dev/kvm."""
