"""Lifecycles as tables: (state, event) -> state. Unknown pairs are refused, and the table draws itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Generic, TypeVar

from manor.base.errors import StateError

S = TypeVar("S")
E = TypeVar("E")


class StateTable(Generic[S, E]):
    """The allowed transitions of one kind of object. Immutable, shared by all objects of that kind."""

    def __init__(self, name: str, initial: S, transitions: Mapping[tuple[S, E], S]) -> None:
        """Raises ValueError if a state cannot be reached from `initial`: a table with dead rows is wrong."""
        self.name = name
        self.initial = initial
        self._transitions = dict(transitions)
        reachable = {initial}
        while True:
            found = {new for (old, _), new in self._transitions.items() if old in reachable} - reachable
            if not found:
                break
            reachable |= found
        dead = [_label(old) for (old, _) in self._transitions if old not in reachable]
        if dead:
            raise ValueError(f"{name}: states {sorted(set(dead))} cannot be reached from {_label(initial)}")

    def next(self, state: S, event: E) -> S:
        """State after `event` in `state`. Raises StateError if the pair is not in the table."""
        try:
            return self._transitions[state, event]
        except KeyError:
            allowed = [_label(old) for (old, what) in self._transitions if what == event]
            raise StateError(f"{self.name}: {_label(event)}", _label(state), allowed) from None

    def allows(self, state: S, event: E) -> bool:
        """Whether `event` is allowed in `state`."""
        return (state, event) in self._transitions

    def events(self, state: S) -> list[E]:
        """Events allowed in `state`, in the order of the table."""
        return [event for (old, event) in self._transitions if old == state]

    def diagram(self) -> str:
        """The table as a Mermaid state diagram."""
        lines = ["stateDiagram-v2", f"    [*] --> {_label(self.initial)}"]
        lines += [
            f"    {_label(old)} --> {_label(new)}: {_label(event)}"
            for (old, event), new in self._transitions.items()
        ]
        return "\n".join(lines) + "\n"


def _label(value: object) -> str:
    name = getattr(value, "name", None)
    return name.lower() if isinstance(name, str) else str(value)
