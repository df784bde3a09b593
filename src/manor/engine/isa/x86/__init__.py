"""The x86 instruction set: declarations, and the system side in native helpers."""
