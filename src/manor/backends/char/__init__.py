"""Character backends: where the bytes of a serial line come from and go to."""
