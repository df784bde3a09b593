"""What Python sees of copy_native. Kept by hand; a test compares it with the built module."""

from pathlib import Path
from typing import Any

def load_stencils(path: Path) -> None: ...
def numbers() -> dict[str, Any]: ...
