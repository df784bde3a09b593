"""Small platform devices."""
