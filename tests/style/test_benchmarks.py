"""Each benchmark can be started: what a document names is there, and its imports agree."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "explanation" / "performance.md"
NAMED = sorted(set(re.findall(r"python -m (benchmarks[.\w]*)", PAGE.read_text("utf-8"))) | {"benchmarks"})

def test_page_names_every_benchmark() -> None:
    started = (path for path in (ROOT / "benchmarks").glob("[a-z]*.py") if "__main__" in path.read_text("utf-8"))
    assert {f"benchmarks.{path.stem}" for path in started} <= set(NAMED)


@pytest.mark.parametrize("name", NAMED)
def test_it_says_how_it_is_used(name: str) -> None:
    done = subprocess.run([sys.executable, "-m", name, "--help"], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: ")
