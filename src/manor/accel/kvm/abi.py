"""Structures of the KVM interface, as ctypes.

Layouts are facts of the Linux KVM API (Documentation/virt/kvm/api.rst; include/uapi/linux/kvm.h and
arch/x86/include/uapi/asm/kvm.h as of Linux 6.1), which the kernel keeps for ever. Only what this package uses is here.
`SIZES` and `OFFSETS` are checked when the module is imported: a wrong layout never reaches the kernel.

Fields have the kernel's names. Fields called `pad` or `reserved` must be zero.
"""

from __future__ import annotations

from ctypes import Structure, Union, c_int32, c_int64, c_uint8, c_uint16, c_uint32, c_uint64, sizeof
from typing import Any, Final

U8, U16, U32, U64, S64 = c_uint8, c_uint16, c_uint32, c_uint64, c_int64

NR_INTERRUPTS: Final = 256
IOAPIC_PINS: Final = 24
LAPIC_SIZE: Final = 0x400
XSAVE_SIZE: Final = 4096
"""The least that KVM_GET_XSAVE2 copies. Linux KVM API, section 4.42."""
MAX_XCRS: Final = 16


def _u64s(names: str) -> list[tuple[str, Any]]:
    return [(name, U64) for name in names.split()]


# --- memory and clock ----------------------------------------------------------------------------------------


class MemoryRegion(Structure):
    """KVM_SET_USER_MEMORY_REGION. Section 4.35."""

    _fields_ = [
        ("slot", U32),
        ("flags", U32),
        ("guest_phys_addr", U64),
        ("memory_size", U64),
        ("userspace_addr", U64),
    ]


MEM_LOG_DIRTY_PAGES: Final = 1
MEM_READONLY: Final = 2


class DirtyLog(Structure):
    """KVM_GET_DIRTY_LOG. dirty_bitmap: host address, a bit for each page. Section 4.8."""

    _fields_ = [("slot", U32), ("padding1", U32), ("dirty_bitmap", U64)]


class ClockData(Structure):
    """KVM_GET_CLOCK, KVM_SET_CLOCK: the time that kvmclock shows, in ns. Section 4.29."""

    _fields_ = [
        ("clock", U64),
        ("flags", U32),
        ("pad0", U32),
        ("realtime", U64),
        ("host_tsc", U64),
        ("pad", U32 * 4),
    ]


# --- interrupt controllers --------------------------------------------------------------------------------

IRQCHIP_PIC_MASTER: Final = 0
IRQCHIP_PIC_SLAVE: Final = 1
IRQCHIP_IOAPIC: Final = 2


class IrqLevel(Structure):
    """KVM_IRQ_LINE. Section 4.25."""

    _fields_ = [("irq", U32), ("level", U32)]


class PicState(Structure):
    """An 8259A."""

    _fields_ = [
        (name, U8)
        for name in (
            "last_irr", "irr", "imr", "isr", "priority_add", "irq_base", "read_reg_select", "poll", "special_mask",
            "init_state", "auto_eoi", "rotate_on_auto_eoi", "special_fully_nested_mode", "init4", "elcr", "elcr_mask",
        )
    ]  # fmt: skip


class IoApicState(Structure):
    """The I/O APIC. redirtbl: entries as in the 82093AA. irr: levels of the pins."""

    _fields_ = [
        ("base_address", U64),
        ("ioregsel", U32),
        ("id", U32),
        ("irr", U32),
        ("pad", U32),
        ("redirtbl", U64 * IOAPIC_PINS),
    ]


class _Chip(Union):
    _fields_ = [("dummy", U8 * 512), ("pic", PicState), ("ioapic", IoApicState)]


class IrqChip(Structure):
    """KVM_GET_IRQCHIP, KVM_SET_IRQCHIP. Section 4.26."""

    _fields_ = [("chip_id", U32), ("pad", U32), ("chip", _Chip)]


class PitConfig(Structure):
    """KVM_CREATE_PIT2. Section 4.71."""

    _fields_ = [("flags", U32), ("pad", U32 * 15)]


PIT_SPEAKER_DUMMY: Final = 1
"""Let the kernel answer port 0x61 too, so that the PIT's channel 2 can be read."""


class PitChannel(Structure):
    """One counter of the 8254. count_load_time: ns of the host's monotonic clock."""

    _fields_ = [
        ("count", U32),
        ("latched_count", U16),
        ("count_latched", U8),
        ("status_latched", U8),
        ("status", U8),
        ("read_state", U8),
        ("write_state", U8),
        ("write_latch", U8),
        ("rw_mode", U8),
        ("mode", U8),
        ("bcd", U8),
        ("gate", U8),
        ("count_load_time", S64),
    ]


class PitState(Structure):
    """KVM_GET_PIT2, KVM_SET_PIT2. Section 4.72."""

    _fields_ = [("channels", PitChannel * 3), ("flags", U32), ("reserved", U32 * 9)]


class _RouteChip(Structure):
    _fields_ = [("irqchip", U32), ("pin", U32)]


class _RouteMsi(Structure):
    _fields_ = [("address_lo", U32), ("address_hi", U32), ("data", U32), ("devid", U32)]


class _Route(Union):
    _fields_ = [("irqchip", _RouteChip), ("msi", _RouteMsi), ("pad", U32 * 8)]


ROUTING_IRQCHIP: Final = 1
ROUTING_MSI: Final = 2


class RoutingEntry(Structure):
    """Where one GSI goes: to a pin of a chip, or out as a message. Section 4.52."""

    _fields_ = [("gsi", U32), ("type", U32), ("flags", U32), ("pad", U32), ("u", _Route)]


class Msi(Structure):
    """KVM_SIGNAL_MSI. Section 4.70."""

    _fields_ = [
        ("address_lo", U32),
        ("address_hi", U32),
        ("data", U32),
        ("flags", U32),
        ("devid", U32),
        ("pad", U8 * 12),
    ]


class IrqFd(Structure):
    """KVM_IRQFD. Section 4.75."""

    _fields_ = [("fd", U32), ("gsi", U32), ("flags", U32), ("resamplefd", U32), ("pad", U8 * 16)]


IRQFD_DEASSIGN: Final = 1
IRQFD_RESAMPLE: Final = 2


class IoEventFd(Structure):
    """KVM_IOEVENTFD. len: 1, 2, 4 or 8, or 0 for any. Section 4.59."""

    _fields_ = [
        ("datamatch", U64),
        ("addr", U64),
        ("len", U32),
        ("fd", c_int32),
        ("flags", U32),
        ("pad", U8 * 36),
    ]


IOEVENTFD_DATAMATCH: Final = 1
IOEVENTFD_PIO: Final = 2
IOEVENTFD_DEASSIGN: Final = 4


# --- vCPU -------------------------------------------------------------------------------------------------


class Regs(Structure):
    """KVM_GET_REGS, KVM_SET_REGS. Section 4.11."""

    _fields_ = _u64s("rax rbx rcx rdx rsi rdi rsp rbp r8 r9 r10 r11 r12 r13 r14 r15 rip rflags")


class SegmentReg(Structure):
    """A segment register with its hidden part. limit is in bytes."""

    _fields_ = [
        ("base", U64),
        ("limit", U32),
        ("selector", U16),
        ("type", U8),
        ("present", U8),
        ("dpl", U8),
        ("db", U8),
        ("s", U8),
        ("l", U8),
        ("g", U8),
        ("avl", U8),
        ("unusable", U8),
        ("padding", U8),
    ]


class TableReg(Structure):
    """GDTR or IDTR."""

    _fields_ = [("base", U64), ("limit", U16), ("padding", U16 * 3)]


_SREGS: Final[list[tuple[str, Any]]] = [
    *((name, SegmentReg) for name in ("cs", "ds", "es", "fs", "gs", "ss", "tr", "ldt")),
    ("gdt", TableReg),
    ("idt", TableReg),
    *_u64s("cr0 cr2 cr3 cr4 cr8 efer apic_base"),
]


class Sregs(Structure):
    """KVM_GET_SREGS, KVM_SET_SREGS. Section 4.13."""

    _fields_ = [*_SREGS, ("interrupt_bitmap", U64 * (NR_INTERRUPTS // 64))]


class Xcr(Structure):
    _fields_ = [("xcr", U32), ("reserved", U32), ("value", U64)]


class Xcrs(Structure):
    """KVM_GET_XCRS, KVM_SET_XCRS. Section 4.44."""

    _fields_ = [("nr_xcrs", U32), ("flags", U32), ("xcrs", Xcr * MAX_XCRS), ("padding", U64 * 16)]


class DebugRegs(Structure):
    """KVM_GET_DEBUGREGS, KVM_SET_DEBUGREGS. Section 4.34."""

    _fields_ = [("db", U64 * 4), ("dr6", U64), ("dr7", U64), ("flags", U64), ("reserved", U64 * 9)]


class MpState(Structure):
    """KVM_GET_MP_STATE, KVM_SET_MP_STATE. Section 4.38."""

    _fields_ = [("mp_state", U32)]


MP_RUNNABLE: Final = 0
MP_UNINITIALIZED: Final = 1
"""Waits for INIT."""
MP_INIT_RECEIVED: Final = 2
"""Waits for SIPI."""
MP_HALTED: Final = 3
MP_SIPI_RECEIVED: Final = 4


class _Exception(Structure):
    _fields_ = [("injected", U8), ("nr", U8), ("has_error_code", U8), ("pending", U8), ("error_code", U32)]


class _Interrupt(Structure):
    _fields_ = [("injected", U8), ("nr", U8), ("soft", U8), ("shadow", U8)]


class _Nmi(Structure):
    _fields_ = [("injected", U8), ("pending", U8), ("masked", U8), ("pad", U8)]


class _Smi(Structure):
    _fields_ = [("smm", U8), ("pending", U8), ("smm_inside_nmi", U8), ("latched_init", U8)]


class VcpuEvents(Structure):
    """KVM_GET_VCPU_EVENTS, KVM_SET_VCPU_EVENTS: what is about to be delivered. Section 4.31."""

    _fields_ = [
        ("exception", _Exception),
        ("interrupt", _Interrupt),
        ("nmi", _Nmi),
        ("sipi_vector", U32),
        ("flags", U32),
        ("smi", _Smi),
        ("triple_fault_pending", U8),
        ("reserved", U8 * 26),
        ("exception_has_payload", U8),
        ("exception_payload", U64),
    ]


VCPUEVENT_VALID_NMI_PENDING: Final = 1
VCPUEVENT_VALID_SIPI_VECTOR: Final = 2
VCPUEVENT_VALID_SHADOW: Final = 4
SHADOW_MOV_SS: Final = 1
SHADOW_STI: Final = 2


class LapicRegs(Structure):
    """KVM_GET_LAPIC, KVM_SET_LAPIC: the register page up to 0x3FF. Section 4.57."""

    _fields_ = [("regs", U8 * LAPIC_SIZE)]


class GuestDebug(Structure):
    """KVM_SET_GUEST_DEBUG. Section 4.87."""

    _fields_ = [("control", U32), ("pad", U32), ("debugreg", U64 * 8)]


GUESTDBG_ENABLE: Final = 1
GUESTDBG_SINGLESTEP: Final = 2
GUESTDBG_USE_SW_BP: Final = 0x1_0000
GUESTDBG_USE_HW_BP: Final = 0x2_0000


class Translation(Structure):
    """KVM_TRANSLATE: a walk of the guest's page tables. Section 4.15."""

    _fields_ = [
        ("linear_address", U64),
        ("physical_address", U64),
        ("valid", U8),
        ("writeable", U8),
        ("usermode", U8),
        ("pad", U8 * 5),
    ]


class CpuidEntry(Structure):
    """One leaf. Section 4.46."""

    _fields_ = [
        ("function", U32),
        ("index", U32),
        ("flags", U32),
        ("eax", U32),
        ("ebx", U32),
        ("ecx", U32),
        ("edx", U32),
        ("padding", U32 * 3),
    ]


CPUID_SIGNIFICANT_INDEX: Final = 1
"""`index` is part of the leaf's name."""


class MsrEntry(Structure):
    _fields_ = [("index", U32), ("reserved", U32), ("data", U64)]


class CountHeader(Structure):
    """Head of the structures that end in `count` entries: CPUID, MSRs, routing."""

    _fields_ = [("count", U32), ("pad", U32)]


class SignalMask(Structure):
    """KVM_SET_SIGNAL_MASK: signals blocked while the guest runs. len: 8, the kernel's sigset_t. Section 4.21."""

    _pack_ = 4
    _fields_ = [("len", U32), ("sigset", U64)]


def with_entries(entry: type[Structure], count: int) -> type[Structure]:
    """The structure of a CountHeader followed by `count` entries; fields `count`, `pad`, `entries`."""
    fields = [("count", U32), ("pad", U32), ("entries", entry * count)]
    return type(f"{entry.__name__}s", (Structure,), {"_fields_": fields})


# --- the run page -----------------------------------------------------------------------------------------
# struct kvm_run is read with plain offsets (`run_page.py`): it is mapped, and read at every exit.

RUN_IMMEDIATE_EXIT: Final = 1
RUN_EXIT_REASON: Final = 8
RUN_READY_FOR_INTERRUPT: Final = 12
RUN_IF_FLAG: Final = 13
RUN_CR8: Final = 16
RUN_APIC_BASE: Final = 24
RUN_UNION: Final = 32
"""Where the part that depends on the exit reason begins."""

SIZES: Final[dict[type[Structure], int]] = {
    MemoryRegion: 32, DirtyLog: 16, ClockData: 48, IrqLevel: 8, PicState: 16,
    IoApicState: 216, IrqChip: 520, PitConfig: 64, PitChannel: 24, PitState: 112, RoutingEntry: 48, Msi: 32,
    IrqFd: 32, IoEventFd: 64, Regs: 144, SegmentReg: 24, TableReg: 16, Sregs: 312, Xcr: 16, Xcrs: 392,
    DebugRegs: 128, MpState: 4, VcpuEvents: 64, LapicRegs: 1024, GuestDebug: 72, Translation: 24, CpuidEntry: 40,
    MsrEntry: 16, CountHeader: 8, SignalMask: 12,
}  # fmt: skip
"""Bytes, as the kernel has them."""

OFFSETS: Final[dict[tuple[type[Structure], str], int]] = {
    (Regs, "rip"): 128, (Sregs, "gdt"): 192, (Sregs, "cr0"): 224, (Sregs, "efer"): 264, (Sregs, "apic_base"): 272,
    (VcpuEvents, "sipi_vector"): 16, (VcpuEvents, "smi"): 24, (VcpuEvents, "exception_has_payload"): 55,
    (VcpuEvents, "exception_payload"): 56, (IoEventFd, "flags"): 24, (PitChannel, "count_load_time"): 16,
    (PitState, "flags"): 72, (RoutingEntry, "u"): 16, (IoApicState, "redirtbl"): 24, (IrqChip, "chip"): 8,
    (ClockData, "realtime"): 16, (SignalMask, "sigset"): 4,
}  # fmt: skip
"""Bytes from the start, where a mistake would go unnoticed by the size."""

for _structure, _size in SIZES.items():
    assert sizeof(_structure) == _size, f"{_structure.__name__}: {sizeof(_structure)} bytes, the kernel has {_size}"
for (_structure, _name), _offset in OFFSETS.items():
    assert getattr(_structure, _name).offset == _offset, f"{_structure.__name__}.{_name} is at the wrong offset"
