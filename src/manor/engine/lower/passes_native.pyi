"""What Python sees of passes_native. Kept by hand; a test compares it with the built module."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from manor.engine.uop.helper import Helper

def load_ops(path: Path) -> None: ...
def set_helpers(table: Sequence[Helper], addresses: Mapping[str, int]) -> None: ...
def numbers() -> dict[str, int]: ...
