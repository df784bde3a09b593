"""Fakes and drivers for tests; nothing in the package imports this."""
