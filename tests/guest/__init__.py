"""Real guests: Linux boots, is used, and ends; compiled programs print the same there as on the host."""
