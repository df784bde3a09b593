"""Machine types: the only place where memory, buses, devices, boot and accelerator meet."""
