"""Where domains, networks and storage really are: one interface, and who implements it."""
