"""Benchmarks: the same guest under Manor and under QEMU's translator, in one run, as ratios."""
