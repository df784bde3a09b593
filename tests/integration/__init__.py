"""Parts of Manor against programs of the host that nobody here wrote; most need root, and skip without it."""
