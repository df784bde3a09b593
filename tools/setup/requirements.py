"""Print the Python packages of the named groups in pyproject.toml, one a line, for `pip install -r`.

Groups: build, run, or the name of an optional group such as test.
Stdlib only: it runs before anything is installed.
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path


def requirements(groups: list[str]) -> list[str]:
    """The requirement strings of the groups, in order."""
    text = (Path(__file__).resolve().parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    project = tomllib.loads(text)
    known = {
        "build": project["build-system"]["requires"],
        "run": project["project"]["dependencies"],
        **project["project"]["optional-dependencies"],
    }
    return [requirement for group in groups for requirement in known[group]]


if __name__ == "__main__":
    print("\n".join(requirements(sys.argv[1:])))
