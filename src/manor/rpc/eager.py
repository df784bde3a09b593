"""Coroutines that mostly need not wait: run at once, and only those that do wait become tasks.

Most procedures look something up and answer. As a task each would cost a turn of the event loop, which is about as much
as the rest of the call. Python 3.12 has eager tasks for this; before them, what begins here has no current task until
it first waits, so it must not begin with `asyncio.timeout`, which then says so by a RuntimeError.
"""

from __future__ import annotations

import types
from collections.abc import Coroutine, Generator
from dataclasses import dataclass
from functools import partial
from typing import Any


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A coroutine that waits for something. rest: what is to be awaited, by a task."""

    rest: Coroutine[Any, Any, Any]


def begin(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run it until it waits for the first time: its result, or an `Unfinished`. Raises what it raises."""
    try:
        awaited = coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    return Unfinished(_go_on(coroutine, awaited))


@types.coroutine
def _go_on(coroutine: Coroutine[Any, Any, Any], awaited: Any) -> Generator[Any, Any, Any]:
    """The rest of a coroutine that waits for `awaited`."""
    while True:
        try:
            sent = yield awaited
        except GeneratorExit:
            coroutine.close()
            raise
        except BaseException as error:  # noqa: BLE001 - it is the coroutine's
            step = partial(coroutine.throw, error)
        else:
            step = partial(coroutine.send, sent)
        try:
            awaited = step()
        except StopIteration as stop:
            return stop.value
