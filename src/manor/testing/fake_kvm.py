"""A kernel whose KVM is a script: any request can be made to fail, and KVM_RUN returns what a test says.

It knows which descriptors are open, so that a test can ask whether the host was left clean.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable
from ctypes import Structure
from typing import Final

from manor.accel.kvm import abi, caps
from manor.accel.kvm.ioctl import REQUESTS, Argument
from manor.accel.kvm.run_page import ExitReason, RunPage

RUN_SIZE: Final = 0x3000
_DATA: Final = 0x1000
_NAMES: Final = {request.number: name for name, request in REQUESTS.items()}

Enter = Callable[[RunPage], None]


class FakeKernel:
    """accel.kvm.ioctl.Kernel. enter: called for each KVM_RUN with the run page, to write an exit into it."""

    def __init__(self, enter: Enter | None = None) -> None:
        self.failing: dict[str, int] = {}
        """Name of a request, or "open", "map" -> errno."""
        self.absent: set[int] = set()
        """Extensions that are not there."""
        self.api_version = caps.API_VERSION
        self.xsave_size = abi.XSAVE_SIZE
        self.calls: list[str] = []
        self.open_fds: set[int] = set()
        self.ioctl: Callable[[int, int, Argument], int] = self._ioctl
        self._enter = enter or write_halt
        self._next = 1000
        self._mapping: mmap.mmap | None = None

    def open(self, path: str) -> int:
        self._maybe_fail("open")
        return self._new_fd()

    def close(self, fd: int) -> None:
        self.open_fds.remove(fd)

    def map(self, fd: int, size: int) -> mmap.mmap:
        self._maybe_fail("map")
        self._mapping = mmap.mmap(-1, size)
        return self._mapping

    def ioctl_word(self, fd: int, number: int, argument: int) -> int:
        return self._ioctl(fd, number, argument)

    def _new_fd(self) -> int:
        self._next += 1
        self.open_fds.add(self._next)
        return self._next

    def _maybe_fail(self, name: str) -> None:
        self.calls.append(name)
        if name in self.failing:
            raise OSError(self.failing[name], os.strerror(self.failing[name]))

    def _ioctl(self, fd: int, number: int, argument: Argument) -> int:
        assert fd in self.open_fds, f"request {number:#x} to descriptor {fd}, which is not open"
        name = _NAMES[number]
        self._maybe_fail(name)
        match name:
            case "KVM_GET_API_VERSION":
                return self.api_version
            case "KVM_CHECK_EXTENSION":
                assert isinstance(argument, int)
                known = {caps.XSAVE2: self.xsave_size, caps.MAX_VCPUS: 8, caps.NR_MEMSLOTS: 8}
                return 0 if argument in self.absent else known.get(argument, 1)
            case "KVM_GET_VCPU_MMAP_SIZE":
                return RUN_SIZE
            case "KVM_CREATE_VM" | "KVM_CREATE_VCPU":
                return self._new_fd()
            case "KVM_GET_SUPPORTED_CPUID" | "KVM_GET_CPUID2":
                assert isinstance(argument, Structure)
                argument.count = 0
            case "KVM_GET_MSRS" | "KVM_SET_MSRS":
                assert isinstance(argument, Structure)
                return int(argument.count)
            case "KVM_RUN":
                assert self._mapping is not None
                page = RunPage(self._mapping)
                try:
                    self._enter(page)
                finally:
                    page.release()
        return 0


def write_halt(page: RunPage) -> None:
    write_exit(page, ExitReason.HLT)


def write_exit(page: RunPage, reason: int, **words: int) -> None:
    """Make KVM_RUN return `reason`. words: u64 at an offset, such as at_32=1."""
    page.u32[abi.RUN_EXIT_REASON // 4] = reason
    for name, value in words.items():
        page.u64[int(name.removeprefix("at_")) // 8] = value


def write_port_access(page: RunPage, port: int, size: int, is_out: bool, data: bytes, count: int = 1) -> None:
    """Make KVM_RUN return an access to a port."""
    page.bytes[32], page.bytes[33] = is_out, size
    page.u16[34 // 2], page.u32[36 // 4], page.u64[40 // 8] = port, count, _DATA
    page.bytes[_DATA : _DATA + len(data)] = data
    write_exit(page, ExitReason.IO)


def data_of(page: RunPage, size: int) -> bytes:
    """What the handler answered to a read from a port."""
    return bytes(page.bytes[_DATA : _DATA + size])
