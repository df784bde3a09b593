"""What the commands do: one function a command, found by its name (dashes are underscores)."""
