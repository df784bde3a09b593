"""Coroutines that begin before they have a task."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from manor.rpc.eager import Unfinished, begin


async def finish(unfinished: object) -> Any:
    """As a session does it."""
    assert isinstance(unfinished, Unfinished)

    async def work() -> Any:
        return await unfinished.rest

    task = asyncio.ensure_future(work())
    unfinished.adopt(task)
    return await task


def test_what_does_not_wait_is_done_at_once() -> None:
    async def answer() -> int:
        return 7

    async def fail() -> None:
        raise ValueError("no")

    async def main() -> None:
        caller = asyncio.current_task()
        assert begin(answer()) == 7
        with pytest.raises(ValueError, match="no"):
            begin(fail())
        assert asyncio.current_task() is caller

    asyncio.run(main())


def test_what_waits_goes_on_in_a_task() -> None:
    async def answer(gate: asyncio.Event) -> list[str]:
        said = ["begun"]
        await asyncio.sleep(0)
        await gate.wait()
        try:
            await asyncio.wait_for(asyncio.Event().wait(), 0.01)
        except TimeoutError:
            said.append("timed out")
        return said

    async def main() -> None:
        gate = asyncio.Event()
        begun = begin(answer(gate))
        asyncio.get_running_loop().call_later(0.01, gate.set)
        assert await finish(begun) == ["begun", "timed out"]

    asyncio.run(main())


def test_a_timeout_that_begins_before_the_task_ends_the_coroutine_and_not_its_caller() -> None:
    async def answer() -> str:
        try:
            async with asyncio.timeout(0.01):
                await asyncio.Event().wait()
        except TimeoutError:
            return "timed out"
        return "never"

    async def grouped() -> int:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(asyncio.sleep(0, number)) for number in (1, 2)]
        return sum(task.result() for task in tasks)

    async def main() -> None:
        assert await finish(begin(answer())) == "timed out"
        assert await finish(begin(grouped())) == 3
        await asyncio.sleep(0.02)  # this task was not cancelled

    asyncio.run(main())


def test_cancelling_reaches_what_was_begun() -> None:
    ended = []

    async def answer() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)  # may wait in its own end
            ended.append("cleaned up")

    async def main() -> None:
        task = asyncio.ensure_future(finish(begin(answer())))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert ended == ["cleaned up"]


def test_what_nobody_awaits_is_closed() -> None:
    ended = []

    async def answer() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("closed")

    async def main() -> None:
        begun = begin(answer())
        assert isinstance(begun, Unfinished)
        del begun
        assert ended == ["closed"]

    asyncio.run(main())
