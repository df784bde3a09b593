"""Coroutines that mostly need not wait: run at once, and only those that do wait become tasks.

Most procedures look something up and answer. As a task each would cost a turn of the event loop, which is about as much
as the rest of the call. (Python 3.12 has eager tasks for this; this works in 3.11 as well.)
"""

from __future__ import annotations

import asyncio
import types
from collections.abc import Coroutine, Generator
from functools import partial
from typing import Any


class Unfinished:
    """A coroutine that waits for something. rest: what a task is to await; say `adopt` with that task."""

    __slots__ = ("_early", "rest")

    def __init__(self, rest: Coroutine[Any, Any, Any], early: _Early) -> None:
        self.rest = rest
        self._early = early

    def adopt(self, task: asyncio.Task[Any]) -> None:
        """Whatever the coroutine began to do with its task is done to this one."""
        self._early.task = task


class _Early:
    """Stands for the task that the coroutine will have, for `asyncio.timeout` and task groups that begin before that.

    They ask for these three things. None of them is cancelled before the coroutine first waits: that takes a callback.
    """

    __slots__ = ("task",)

    def __init__(self) -> None:
        self.task: asyncio.Task[Any] | None = None

    def cancel(self, msg: Any = None) -> bool:
        return self.task is not None and self.task.cancel(msg)

    def cancelling(self) -> int:
        return 0 if self.task is None else self.task.cancelling()

    def uncancel(self) -> int:
        return 0 if self.task is None else self.task.uncancel()


def begin(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run it until it waits for the first time: its result, or an `Unfinished`. Raises what it raises.

    To be called in a task, which is not the coroutine's own. Source of the two functions that say so: Python 3.11
    documentation, "Extending asyncio", Task lifetime support.
    """
    loop = asyncio.get_running_loop()
    caller: Any = asyncio.current_task(loop)
    early: Any = _Early()
    asyncio.tasks._leave_task(loop, caller)
    asyncio.tasks._enter_task(loop, early)
    try:
        awaited = coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    finally:
        asyncio.tasks._leave_task(loop, early)
        asyncio.tasks._enter_task(loop, caller)
    return Unfinished(_go_on(coroutine, awaited), early)


@types.coroutine
def _go_on(coroutine: Coroutine[Any, Any, Any], awaited: Any) -> Generator[Any, Any, Any]:
    """The rest of a coroutine that waits for `awaited`."""
    while True:
        step: partial[Any]
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
