"""Accelerators: what runs vCPUs."""
