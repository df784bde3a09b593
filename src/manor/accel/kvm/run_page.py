"""The page that a vCPU shares with the kernel: why KVM_RUN returned, and the data of that exit.

Source: Linux KVM API, section 5 "The kvm_run structure". Offsets in bytes; the part that depends on the exit reason
begins at 32 (`abi.RUN_UNION`).
"""

from __future__ import annotations

import mmap
from enum import IntEnum
from typing import Final

from manor.accel.kvm import abi


class ExitReason(IntEnum):
    """Why KVM_RUN returned. Source: include/uapi/linux/kvm.h."""

    UNKNOWN = 0
    EXCEPTION = 1
    IO = 2
    HYPERCALL = 3
    DEBUG = 4
    HLT = 5
    MMIO = 6
    IRQ_WINDOW_OPEN = 7
    SHUTDOWN = 8
    FAIL_ENTRY = 9
    INTR = 10
    SET_TPR = 11
    TPR_ACCESS = 12
    NMI = 16
    INTERNAL_ERROR = 17
    SYSTEM_EVENT = 24
    IOAPIC_EOI = 26
    X86_RDMSR = 29
    X86_WRMSR = 30
    DIRTY_RING_FULL = 31
    X86_BUS_LOCK = 33
    NOTIFY = 37


IO_OUT: Final = 1
"""Direction of a port access; 0 is IN."""


class RunPage:
    """The mapped page with a view for each width. `close` before the vCPU's descriptor is closed.

    WHY NATIVE: the page is how KVM passes an exit; there is no other way to read it.
    SAFETY: the mapping is owned here, the views keep it alive; it belongs to the vCPU's thread, but for the byte
    `immediate_exit`, which any thread may set; the guest cannot reach it.
    """

    __slots__ = ("_map", "bytes", "u16", "u32", "u64")

    def __init__(self, mapping: mmap.mmap) -> None:
        self._map = mapping
        self.bytes = memoryview(mapping)
        self.u16 = self.bytes.cast("H")
        self.u32 = self.bytes.cast("I")
        self.u64 = self.bytes.cast("Q")

    @property
    def exit_reason(self) -> int:
        return self.u32[abi.RUN_EXIT_REASON // 4]

    def request_exit(self) -> None:
        """Make the next KVM_RUN return at once. Thread: any."""
        self.bytes[abi.RUN_IMMEDIATE_EXIT] = 1

    def clear_exit_request(self) -> None:
        self.bytes[abi.RUN_IMMEDIATE_EXIT] = 0

    @property
    def is_exit_requested(self) -> bool:
        return self.bytes[abi.RUN_IMMEDIATE_EXIT] != 0

    def release(self) -> None:
        """Let go of the views; the mapping stays, with its owner."""
        for view in (self.u64, self.u32, self.u16, self.bytes):
            view.release()

    def close(self) -> None:
        """Unmap the page. Nothing happens if that was done."""
        self.release()
        self._map.close()
