"""Foundations: addresses, bits, time, errors, units, states. Imports nothing of ours."""
