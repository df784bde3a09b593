"""The serial output of a VM in the background, in a file that does not grow without end."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

MAX_LOG: Final = 4 << 20
"""Bytes from which on the file becomes FILE.1 and a new one begins; so at most twice as much is kept."""


class ConsoleLog:
    """Appends to `path`. Thread: one, the I/O loop's. An error of the host ends the log, not the VM."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = -1
        self._size = 0
        self._open()

    def write(self, data: bytes) -> None:
        if self._descriptor < 0:
            return
        try:
            os.write(self._descriptor, data)
        except OSError:
            self.close()
            return
        self._size += len(data)
        if self._size >= MAX_LOG:
            self.close()
            try:
                os.replace(self._path, self._path.with_name(self._path.name + ".1"))
            except OSError:
                return
            self._open()

    def close(self) -> None:
        """End the log; nothing happens the second time."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _open(self) -> None:
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
            self._descriptor = os.open(self._path, flags, 0o600)
            self._size = os.fstat(self._descriptor).st_size
        except OSError:
            self._descriptor = -1
