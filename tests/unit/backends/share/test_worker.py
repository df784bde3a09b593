"""A share's thread: order, resets, the end, and folders that are none."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from manor.backends.share import fuse
from manor.backends.share.fuse import Opcode
from manor.backends.share.worker import SharedFolder
from manor.base.errors import ConfigError
from manor.spec.share import ShareSpec

TIMEOUT_S = 5.0


class Request:
    """One request; reading it waits for `go`."""

    def __init__(self, opcode: int, body: bytes = b"", *, go: bool = True) -> None:
        self.room = 4096
        self.go = threading.Event()
        self.started = threading.Event()
        self.answer: bytes | None = None
        self.answered = threading.Event()
        self._data = fuse.IN_HEADER.pack(40 + len(body), opcode, 1, 1, 0, 0, 0, 0, 0) + body
        if go:
            self.go.set()

    def read(self) -> bytes:
        self.started.set()
        assert self.go.wait(TIMEOUT_S)
        return self._data

    def done(self, answer: bytes) -> None:
        self.answer = answer
        self.answered.set()


def init() -> Request:
    return Request(Opcode.INIT, fuse.INIT_IN.pack(7, 31, 0, 0))


def test_requests_are_served_until_the_reset(tmp_path: Path) -> None:
    errors: list[BaseException] = []
    folder = SharedFolder(ShareSpec(tmp_path, "t"), errors.append)
    first, slow, dropped = init(), Request(Opcode.STATFS, go=False), Request(Opcode.STATFS)
    for request in (first, slow, dropped):
        folder.submit(request, request.done)
    assert first.answered.wait(TIMEOUT_S)
    assert slow.started.wait(TIMEOUT_S)
    folder.reset()
    slow.go.set()
    late = Request(Opcode.STATFS)
    folder.submit(late, late.done)
    assert late.answered.wait(TIMEOUT_S)
    assert late.answer is not None
    assert fuse.OUT_HEADER.unpack_from(late.answer)[1] < 0  # a new session has not begun
    assert dropped.answer is None
    folder.close()
    folder.submit(dropped, dropped.done)
    assert dropped.answer is None
    assert errors == []


def test_bug_of_the_server_is_told(tmp_path: Path) -> None:
    told = threading.Event()
    folder = SharedFolder(ShareSpec(tmp_path, "t"), lambda error: told.set())
    request = init()

    def broken() -> bytes:
        raise RuntimeError("a bug")

    request.read = broken  # type: ignore[method-assign]
    folder.submit(request, request.done)
    assert told.wait(TIMEOUT_S)
    folder.close()


def test_folder_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "missing"):
        with pytest.raises(ConfigError, match="is not a folder; give one that exists"):
            SharedFolder(ShareSpec(path), lambda error: None)
