"""Guest-physical memory and the address maps of the machine types."""
