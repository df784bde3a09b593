"""`manord`: sockets, clients and their limits, systemd."""
