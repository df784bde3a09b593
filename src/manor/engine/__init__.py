"""The binary-translation engine: a library that knows no device, no machine and no KVM."""
