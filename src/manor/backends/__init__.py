"""Host resources behind device models."""
