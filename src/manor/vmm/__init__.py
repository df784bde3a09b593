"""The process that runs one virtual machine: threads, event loop, lifecycle, terminal."""
