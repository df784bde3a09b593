"""Memory slots: which host memory the guest sees where, and which pages it has written.

Source: Linux KVM API, sections 4.35 (slots), 4.8 (dirty log). A page of the log is 4 KiB; the log is read and cleared
at once. What the host's own devices write does not pass the processor's tables, so KVM does not see it: `DirtyLog`
adds it.
"""

from __future__ import annotations

import ctypes
import errno
import threading
from typing import Final

from manor.accel.kvm import abi, ioctl
from manor.accel.kvm.errors import KvmError, SlotRefused
from manor.accel.kvm.handle import Handle
from manor.base.address import PAGE_SHIFT, page_of
from manor.mem.guest_memory import GuestMemory, Region

_BITS: Final = 64
_FIX: Final = {
    errno.ENOMEM: "free some memory of the host, or give the guest less (--memory)",
    errno.EEXIST: "two regions overlap: a bug of Manor",
    errno.EINVAL: "the host's KVM cannot map memory there",
    errno.ENOSPC: "use fewer pieces of memory",
}


class MemorySlots:
    """The slots of one virtual machine: one a region, in the order of addresses. Thread: one at a time."""

    def __init__(self, vm: Handle, memory: GuestMemory, max_slots: int) -> None:
        """Give all of `memory` to `vm`. Raises SlotRefused."""
        self._vm = vm
        self._memory = memory
        if len(memory.regions) > max_slots:
            raise SlotRefused(f"{len(memory.regions)} pieces of guest memory, KVM takes {max_slots}")
        for slot, region in enumerate(memory.regions):
            self._set(slot, region, is_logged=False)

    def _set(self, slot: int, region: Region, is_logged: bool) -> None:
        flags = abi.MEM_READONLY if region.kind == "rom" else 0
        flags |= abi.MEM_LOG_DIRTY_PAGES if is_logged else 0
        # SAFETY: host memory of the slot is owned by the GuestMemory, which outlives the virtual machine.
        entry = abi.MemoryRegion(slot, flags, region.start, region.size, self._memory.host_address(region))
        attempt = f"cannot give {region.size:#x} bytes at {region.start:#x} to the guest"
        try:
            self._vm.call(ioctl.SET_USER_MEMORY_REGION, entry, attempt)
        except KvmError as error:
            fix = _FIX.get(error.errno or 0, "")
            raise SlotRefused(attempt, error.errno, error.request, fix) from error

    def set_logging(self, is_on: bool) -> None:
        """Log writes of the guest, or stop. The log of RAM only: a guest does not write ROM."""
        for slot, region in enumerate(self._memory.regions):
            if region.kind == "ram":
                self._set(slot, region, is_on)

    def take_dirty(self) -> set[int]:
        """Numbers of the pages that the guest wrote since the last call, while logging is on."""
        pages: set[int] = set()
        for slot, region in enumerate(self._memory.regions):
            if region.kind != "ram":
                continue
            count = region.size >> PAGE_SHIFT
            # SAFETY: the bitmap lives until the request is over, and has room for the whole words that KVM writes.
            words = (ctypes.c_uint64 * -(-count // _BITS))()
            entry = abi.DirtyLog(slot, 0, ctypes.addressof(words))
            self._vm.call(ioctl.GET_DIRTY_LOG, entry, "cannot read which pages the guest wrote")
            first = page_of(region.start)
            for index, word in enumerate(words):
                while word:
                    low = word & -word
                    pages.add(first + index * _BITS + low.bit_length() - 1)
                    word ^= low
        return pages


class DirtyLog:
    """Pages written by the guest and by the host's devices, between `start` and `stop`. Thread: any."""

    def __init__(self, slots: MemorySlots, memory: GuestMemory) -> None:
        self._slots = slots
        self._memory = memory
        self._lock = threading.Lock()
        self._by_devices: set[int] = set()

    def start(self) -> None:
        self._memory.on_write = self._on_device_write
        self._slots.set_logging(True)

    def take(self) -> set[int]:
        """Numbers of the pages written since the last call."""
        pages = self._slots.take_dirty()
        with self._lock:
            pages |= self._by_devices
            self._by_devices = set()
        return pages

    def stop(self) -> None:
        self._slots.set_logging(False)
        self._memory.on_write = None

    def _on_device_write(self, gpa: int, size: int) -> None:
        with self._lock:
            self._by_devices.update(range(page_of(gpa), page_of(gpa + size - 1) + 1))
