"""From uops to host code."""
