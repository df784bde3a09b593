"""What this host can do for guests, and what to change: the checks behind `manor doctor`."""
