"""Disks with a distribution on them, built from its packages without root rights."""
