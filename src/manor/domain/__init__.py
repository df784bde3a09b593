"""Virtual machines as the management layer sees them: states, events, names, and libvirt's XML. Nothing here runs."""
