"""Device models: they know neither their address, their machine nor threads."""
