"""Uops: the operations that guest instructions are translated to."""
