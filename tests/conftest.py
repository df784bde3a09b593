"""What all tests share: a record of the trace events that fired, for the completeness tests.

Recording changes nothing else: an event fires only in a test that has switched it on.
"""

from __future__ import annotations

import os
from pathlib import Path

import hypothesis
import pytest

from manor.trace.event import Event

hypothesis.settings.register_profile("same", derandomize=True, deadline=None)
hypothesis.settings.register_profile("new", deadline=None)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))
"""`make test` tries the same generated cases each time, `make test-all` new ones."""

os.environ.setdefault("MANOR_AUTOSTART", "0")
"""A client under test starts no daemon in its user's name; those that are to, do so in a place of their own."""

FIRED: set[str] = set()
UNIT_TESTS = Path(__file__).parent / "unit"
LAST = "test_every_trace_event_is_fired_by_a_test"

_collected: set[Path] = set()
_fire = Event.__call__


def _recording(self: Event, *values: object) -> None:
    FIRED.add(self.name)
    _fire(self, *values)


Event.__call__ = _recording  # type: ignore[method-assign]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The test that looks at the record runs last."""
    _collected.update(item.path for item in items)
    items.sort(key=lambda item: item.name == LAST)


@pytest.fixture
def fired_events() -> set[str]:
    """Names of the events that the unit tests fired. Skips the test unless all of them were run."""
    missing = set(UNIT_TESTS.rglob("test_*.py")) - _collected
    if missing:
        pytest.skip(f"needs all unit tests in one run; {len(missing)} files are not in this one")
    return FIRED
