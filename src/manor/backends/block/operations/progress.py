"""How a long operation tells how far it is."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[int, int], None]
"""progress(done, total), in bytes."""


def silent(_done: int, _total: int) -> None:
    """Tells nobody."""
