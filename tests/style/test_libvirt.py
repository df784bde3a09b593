"""What is generated from the protocol's declarations is what they say now."""

from __future__ import annotations

import importlib.util
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_pages_and_stubs_are_up_to_date() -> None:
    spec = importlib.util.spec_from_file_location("manor_libvirt_generator", ROOT / "tools" / "gen" / "libvirt.py")
    assert spec is not None
    assert spec.loader is not None
    generator = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generator)
    outdated = [path.name for path, text in generator.pages().items() if path.read_text("utf-8") != text]
    assert not outdated, f"{', '.join(outdated)}: run python tools/gen/libvirt.py"
