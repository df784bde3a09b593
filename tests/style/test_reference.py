"""The generated reference pages are what the declarations say now."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    path = ROOT / "tools" / "gen" / "reference.py"
    spec = importlib.util.spec_from_file_location("manor_reference_generator", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_pages_are_up_to_date(generator: ModuleType) -> None:
    outdated = [path.name for path, text in generator.pages().items() if path.read_text("utf-8") != text]
    assert not outdated, f"{', '.join(outdated)}: run python tools/gen/reference.py"


def test_every_statistic_is_described_and_nothing_else(generator: ModuleType) -> None:
    assert sorted(generator.COUNTERS) == sorted(generator.counters())


def test_every_instruction_is_on_its_page(generator: ModuleType) -> None:
    rows = [line for line in generator.instruction_page().splitlines() if line.startswith("| `")]
    assert len(rows) == len(generator.instructions())


def test_tables_of_all_devices_are_found(generator: ModuleType) -> None:
    names = {table.name for _, table in generator.register_tables()}
    assert {"ioapic", "rtc", "i8042_reset"} <= names
    assert len(names) == len(generator.register_tables())
