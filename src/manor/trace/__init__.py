"""Typed trace events, declared beside the code that fires them, off by default."""
