"""Writing a VM that stands still into a file.

What the disks look like is known only when the VM has let go of them, and then it cannot go on. So everything else is
on the medium before, with room for the rest; up to there the save can fail, or be given up, and the VM goes on.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Final, Protocol

from manor.base.errors import ConfigError, HostError
from manor.base.sections import MAX_SECTION, SectionWriter
from manor.machine.pc import Machine
from manor.machine.saved import state_to_plain
from manor.mem.guest_memory import GuestMemory
from manor.mem.saved_memory import pieces
from manor.spec import saved_vm
from manor.spec.control import Json
from manor.spec.machine import MachineSpec
from manor.spec.saved_vm import DiskMark, SavedHead
from manor.trace.event import declare

Progress = Callable[[int, int], None]
"""Called with bytes of memory dealt with, and of all that is in use."""
_LEVEL: Final = 1
"""Of zstd: the fastest. What is in a guest's memory shrinks to a third with it, and hardly less with more."""
_MARK_ROOM: Final = 8192
"""Bytes kept free for the mark of each disk; most of one is its path, at most 4096 bytes (PATH_MAX)."""

vm_save = declare("vm_save", path=str, size=int)


class SaveGivenUp(HostError):
    """Somebody asked for the end of a save, or of the VM."""


class Saving:
    """One save. `cancel` may be called on any thread; the rest belongs to one."""

    def __init__(self, path: str | PathLike[str], progress: Progress | None = None, note: str = "") -> None:
        """note: text that is kept in the file (SavedHead)."""
        self.path = Path(path).absolute()
        self.note = note
        self.paused: bool | None = None
        """Whether the VM shall be paused when it goes on; None: as it is."""
        self.extra: Json = {}
        """Plain values that `SavedVm.extra` gives back."""
        self.size = 0
        """Bytes of the file, once it is there."""
        self._progress = progress
        self._is_cancelled = threading.Event()
        self._is_beyond = False
        self._writer: SectionWriter | None = None

    def cancel(self) -> bool:
        """Give the save up; False if it is too late."""
        if not self._is_beyond:
            self._is_cancelled.set()
        return not self._is_beyond

    def write(
        self, head: SavedHead, machine: Machine, state: dict[str, Any], nets: Sequence[Any],
        ranges: list[tuple[int, int]], is_ending: Callable[[], bool],
    ) -> None:  # fmt: skip
        """All but the disks. ranges: of memory in use. is_ending: whether somebody wants the VM to end.

        Raises HostError, SaveGivenUp; then nothing is left behind.
        """
        try:
            self._writer = SectionWriter(self.path, saved_vm.MAGIC, saved_vm.VERSION)
            self._add(saved_vm.HEAD, head.to_json())
            self._add(saved_vm.STATE, json.dumps(state).encode())
            self._add(saved_vm.HOST, json.dumps({"networks": nets, "extra": self.extra}).encode())
            self._write_memory(machine.memory, ranges, head.memory, is_ending)
            self._writer.reserve(_MARK_ROOM * max(1, len(head.machine.disks)))
            self._look(is_ending)
            self._is_beyond = True
            self._look(is_ending)  # who cancelled meanwhile was told that it is not too late
        except BaseException:
            self.abandon()
            raise

    def finish(self, marks: Sequence[DiskMark]) -> None:
        """The VM has let go of its disks. The file is there afterwards. Raises HostError."""
        assert self._writer is not None
        self._add(saved_vm.DISKS, saved_vm.marks_to_json(marks))
        self._writer.finish()
        self.size = self._writer.size
        if vm_save.on:
            vm_save(str(self.path), self._writer.size)

    def abandon(self) -> None:
        """Leave nothing behind; nothing happens after `finish`."""
        if self._writer is not None:
            self._writer.abandon()

    def _add(self, kind: bytes, payload: bytes) -> None:
        assert self._writer is not None
        if len(payload) > MAX_SECTION:
            raise HostError(f"the VM has too much state to save: {len(payload)} bytes of {kind.decode()}")
        self._writer.add(kind, payload)

    def _write_memory(
        self, memory: GuestMemory, ranges: list[tuple[int, int]], total: int, is_ending: Callable[[], bool]
    ) -> None:
        import zstandard

        compressor = zstandard.ZstdCompressor(level=_LEVEL)
        assert self._writer is not None
        for gpa, data, done in pieces(memory, ranges):
            self._look(is_ending)
            packed = compressor.compress(data)
            if len(packed) < len(data):
                self._writer.add(saved_vm.PAGES, saved_vm.PAGE_HEAD.pack(gpa, len(data), saved_vm.ZSTD) + packed)
            else:
                self._writer.add(saved_vm.PAGES, saved_vm.PAGE_HEAD.pack(gpa, len(data), saved_vm.STORED) + data)
            if self._progress is not None:
                self._progress(done, total)

    def _look(self, is_ending: Callable[[], bool]) -> None:
        if self._is_cancelled.is_set():
            raise SaveGivenUp("the save was cancelled; the VM goes on")
        if is_ending():
            raise SaveGivenUp("the VM ends, so it is not saved")


def state_of(machine: Machine) -> dict[str, Any]:
    """The machine's state for `write`. Machine lock held. Raises StateError if a device is not at rest."""
    from manor.machine.saved import save

    return state_to_plain(save(machine))


class Mountable(Protocol):
    """A shared folder."""

    @property
    def tag(self) -> str: ...
    @property
    def is_mounted(self) -> bool: ...


def refuse_unsaveable(spec: MachineSpec, shares: Sequence[Mountable]) -> None:
    """Raise ConfigError for what a file cannot hold.

    A mounted share is such: the guest's kernel has numbers of files that its server knows by descriptors of the host's,
    which end with the process; another server could at best guess which files were meant.
    """
    for number, disk in enumerate(spec.disks):
        if disk.snapshot:
            raise ConfigError(
                f"disks[{number}].snapshot",
                f"what the guest wrote to {disk.source} is lost when the VM ends, so the VM cannot be saved; give it a "
                "disk that keeps it",
            )
    for share in shares:
        if share.is_mounted:
            raise ConfigError(
                "share",
                f"the guest has the shared folder {share.tag} mounted, and cannot keep open files of it; unmount it in "
                "the guest first",
            )
