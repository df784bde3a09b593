"""Guests of a few instructions, written in Python, on every accelerator."""
