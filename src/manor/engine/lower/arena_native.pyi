"""What Python sees of arena_native. Kept by hand; a test compares it with the built module."""

from collections.abc import Mapping

def set_slow_paths(addresses: Mapping[str, int]) -> None: ...
