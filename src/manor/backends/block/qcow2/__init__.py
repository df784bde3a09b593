"""Images in QEMU's format qcow2, versions 2 and 3, after the qcow2 specification (docs/interop/qcow2.txt of QEMU)."""
