"""All declared trace events: for the reference page and for the test that every event is hit."""

from __future__ import annotations

import importlib
import pkgutil

from manor.trace import event as event_module
from manor.trace.event import Event


def events() -> list[Event]:
    """Events declared by the modules imported so far, by name."""
    return [event_module.declared[name] for name in sorted(event_module.declared)]


def import_all(package_name: str = "manor") -> list[Event]:
    """Import every module of a package (not its `__main__` and native modules), then give all its events."""
    package = importlib.import_module(package_name)
    for module in pkgutil.walk_packages(package.__path__, package_name + "."):
        if not module.name.endswith((".__main__", "_native")):
            importlib.import_module(module.name)
    return events()


def markdown() -> str:
    """The events as a Markdown table."""
    lines = ["| event | fields |", "|---|---|"]
    for event in events():
        fields = ", ".join(f"`{name}`: {kind.__name__}" for name, kind in event.fields.items())
        lines.append(f"| `{event.name}` | {fields} |")
    return "\n".join(lines) + "\n"
