"""A program in QEMU's place: it opens a monitor as the real one does, and does as a test tells it.

    fake_qemu.py ARGUMENTS        in the directory of a VM, as QEMU is started

It writes what it is asked to `asked` (a line of JSON each) and follows lines that appear in `orders`:

    {"event": "STOP", "data": {}}      sends an event
    {"refuse": "device_add", "desc": "..."}   has a command fail from now on
    {"answer": "query-status", "value": {}}   has a command answered so
    {"exit": 3}                        ends

Every `-chardev socket` is opened too; what comes in goes back.
"""

from __future__ import annotations

import asyncio
import json
import os
import stat
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

_ANSWERS: Final[dict[str, Any]] = {
    "query-status": {"status": "running", "running": True},
    "query-cpus-fast": [{"cpu-index": 0, "thread-id": 0}],
    "query-blockstats": [],
    "query-balloon": {"actual": 64 << 20},
    "qom-get": {"last-update": 0, "stats": {}},
    "query-hotpluggable-cpus": [],
}


class FakeQemu:
    """One process."""

    def __init__(self, arguments: list[str]) -> None:
        self.arguments = arguments
        self.answers = dict(_ANSWERS)
        self.refused: dict[str, str] = {}
        self.monitor: asyncio.StreamWriter | None = None
        self.ended = asyncio.Event()
        self.status = 0

    async def run(self) -> int:
        for chardev in (each for each in self.arguments if each.startswith("socket,")):
            values = dict(part.split("=", 1) for part in chardev.split(",")[1:])
            serve = self.serve_monitor if values["id"] == "monitor" else self.echo
            await asyncio.start_unix_server(serve, values["path"])
        following = asyncio.ensure_future(self.follow())
        await self.ended.wait()
        following.cancel()
        return self.status

    async def echo(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(4096):
                writer.write(data)
                await writer.drain()

    async def serve_monitor(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.monitor = writer
        self.send({"QMP": {"version": {"qemu": {"major": 7, "minor": 2, "micro": 0}}, "capabilities": []}})
        with suppress(OSError):
            while line := await reader.readline():
                self.take(json.loads(line))
        self.monitor = None

    def take(self, message: dict[str, Any]) -> None:
        command = message["execute"]
        with Path("asked").open("a") as file:
            file.write(json.dumps({"command": command, "arguments": message.get("arguments", {})}) + "\n")
        if command in self.refused:
            description = self.refused[command]
            self.send({"id": message["id"], "error": {"class": "GenericError", "desc": description}})
            return
        self.send({"id": message["id"], "return": self.answers.get(command, {})})
        event = {"stop": "STOP", "cont": "RESUME", "system_reset": "RESET", "system_powerdown": "POWERDOWN"}
        if command in event:
            self.send({"event": event[command], "data": {"guest": False}, "timestamp": {}})
        if command == "quit":
            self.send({"event": "SHUTDOWN", "data": {"guest": False, "reason": "host-qmp-quit"}, "timestamp": {}})
            self.ended.set()

    def send(self, message: dict[str, Any]) -> None:
        if self.monitor is not None:
            self.monitor.write(json.dumps(message).encode() + b"\r\n")

    async def follow(self) -> None:
        done = 0
        while True:
            with suppress(OSError):
                lines = Path("orders").read_text().splitlines(keepends=True)
                for line in (each for each in lines[done:] if each.endswith("\n")):
                    done += 1
                    self.obey(json.loads(line))
            await asyncio.sleep(0.01)

    def obey(self, order: dict[str, Any]) -> None:
        if "event" in order:
            self.send({"timestamp": {"seconds": 1, "microseconds": 2}, **order})
        elif "refuse" in order:
            self.refused[order["refuse"]] = order["desc"]
        elif "answer" in order:
            self.answers[order["answer"]] = order["value"]
        else:
            sys.stderr.write("qemu-system-x86_64: as it was told\n")
            sys.stderr.flush()
            os._exit(order["exit"])


def install(directory: Path) -> Path:
    """An executable in `directory` that is this program."""
    path = directory / "fake-qemu"
    # By its file, and without site packages: it needs neither them nor the rest of this package.
    path.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S {__file__} "$@"\n')
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


if __name__ == "__main__":
    if os.environ.get("FAKE_QEMU_FAILS"):
        sys.stderr.write(f"2026-01-01T00:00:00.000000Z qemu-system-x86_64: {os.environ['FAKE_QEMU_FAILS']}\n")
        sys.exit(1)
    sys.exit(asyncio.run(FakeQemu(sys.argv[1:]).run()))
