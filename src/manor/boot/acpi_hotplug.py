"""Hot-plug in the DSDT: a Generic Event Device, the controller's registers, and the methods of slots and processors.
And the power button, whose presses come the same way.

Source: ACPI 6.5, 5.6.9 "Interrupt-signaled ACPI events", 5.6.6 "Device Object Notifications", 6.3 "Device Insertion,
Removal, and Status Objects".

The interrupt makes the guest evaluate _EVT, which reads what arrived and what shall go, acknowledges it, and notifies
the devices: "device check" for what arrived, "eject request" for what shall go. The guest's last word is _EJ0.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from manor.boot import aml

DEVICE_CHECK: Final = 1
EJECT_REQUEST: Final = 3
"""Notifications. Source: ACPI 6.5, table 5.164."""
BUTTON_PRESSED: Final = 0x80
"""Notification of a power button. Source: ACPI 6.5, table 5.173, and 4.8.2.2.1.2 "Control Method Power Button"."""
EJECTION_PROCESSING: Final = 0x103
"""Source event of _OST while an ejection goes on. Source: ACPI 6.5, table 6.58."""
EJECTION_PENDING: Final = 0x84
"""Status of _OST while the guest still works on an ejection. Source: ACPI 6.5, table 6.60."""
_PRESENT: Final = 0xF
"""_STA: present, enabled, shown, functioning. Source: ACPI 6.5, 6.3.7."""
_CONTROLLER: Final = "\\_SB.HPC0"
REGISTERS: Final = (
    ("PUP", 32), ("PDN", 32), ("PEJ", 32), ("BTN", 32), ("CUP", 64), ("CDN", 64), ("CEJ", 64), ("CKP", 64), ("CEN", 64),
)  # fmt: skip
"""Names and bits of the controller's registers from its first port on; a test compares them with the device's."""


@dataclass(frozen=True, slots=True)
class HotplugSpec:
    """ports: first port of the controller. gsi: its interrupt, level-triggered, active high. slots: those of PCI bus 0
    whose device may come or go. cpus: UIDs of the processors that may."""

    ports: int
    gsi: int
    slots: tuple[int, ...]
    cpus: tuple[int, ...] = ()


def slot_name(slot: int) -> str:
    """Of the device object of a slot."""
    return f"S{slot:02X}"


def cpu_name(uid: int) -> str:
    """Of the device object of a processor."""
    return f"C{uid:03X}"


def event_devices(spec: HotplugSpec) -> list[bytes]:
    """The controller, the power button and the event device, for \\_SB."""
    size = sum(bits for _, bits in REGISTERS) // 8
    controller = aml.device(
        "HPC0",
        aml.name("_HID", aml.eisa_id("PNP0A06")),
        aml.name("_UID", aml.string("hot-plug")),
        aml.name("_CRS", aml.resource_template(aml.io_ports(spec.ports, size))),
        aml.io_region("REGS", spec.ports, size),
        aml.fields("REGS", *REGISTERS),
    )
    button = aml.device(
        "PWRB",
        aml.name("_HID", aml.eisa_id("PNP0C0C")),
        aml.name("_UID", aml.integer(0)),
    )
    scan = [
        *_scan("BTN", (0,), lambda _: "\\_SB.PWRB", BUTTON_PRESSED),
        *_scan("PUP", spec.slots, lambda slot: f"\\_SB.PCI0.{slot_name(slot)}", DEVICE_CHECK),
        *_scan("PDN", spec.slots, lambda slot: f"\\_SB.PCI0.{slot_name(slot)}", EJECT_REQUEST),
        *_scan("CUP", spec.cpus, lambda uid: f"\\_SB.{cpu_name(uid)}", DEVICE_CHECK),
        *_scan("CDN", spec.cpus, lambda uid: f"\\_SB.{cpu_name(uid)}", EJECT_REQUEST),
    ]
    events = aml.device(
        "GED0",
        aml.name("_HID", aml.string("ACPI0013")),
        aml.name("_UID", aml.integer(0)),
        aml.name("_CRS", aml.resource_template(aml.interrupt(spec.gsi, level=True))),
        aml.method("_EVT", 1, *scan),
    )
    return [controller, button, events]


def _register(name: str) -> bytes:
    return aml.name_string(f"{_CONTROLLER}.{name}")


def _scan(register: str, numbers: Sequence[int], path: Callable[[int], str], notification: int) -> list[bytes]:
    """Read a register, acknowledge all that it shows, and notify those devices."""
    if not numbers:
        return []
    return [
        aml.store(_register(register), aml.local(0)),
        aml.store(aml.local(0), _register(register)),
        *(
            aml.if_(aml.and_(aml.local(0), aml.integer(1 << number)), aml.notify(path(number), notification))
            for number in numbers
        ),
    ]


def slot_device(slot: int) -> bytes:
    """A slot of bus 0, for the root bridge. Whether something is in it, configuration space tells: no _STA."""
    return aml.device(
        slot_name(slot),
        aml.name("_ADR", aml.integer(slot << 16)),
        aml.name("_SUN", aml.integer(slot)),
        aml.method("_EJ0", 1, aml.store(aml.integer(1 << slot), _register("PEJ"))),
    )


def cpu_objects(uid: int, apic_id: int) -> list[bytes]:
    """What a processor that may come and go has beside its identity.

    _MAT is its MADT entry, enabled: it is looked at only when _STA says that the processor is there.
    """
    bit = aml.integer(1 << uid)
    keep = aml.store(bit, _register("CKP"))
    # Other statuses are failures.
    is_pending = aml.equal(aml.argument(1), aml.integer(EJECTION_PENDING))
    failed = aml.if_(aml.argument(1), aml.if_(aml.not_(is_pending), keep))
    return [
        aml.method(
            "_STA", 0,
            aml.if_(aml.and_(_register("CEN"), bit), aml.return_(aml.integer(_PRESENT))),
            aml.return_(aml.integer(0)),
        ),
        aml.name("_MAT", aml.buffer(struct.pack("<BBBBI", 0, 8, uid, apic_id, 1))),
        aml.method("_EJ0", 1, aml.store(bit, _register("CEJ"))),
        aml.method(
            "_OST", 3,
            aml.if_(aml.equal(aml.argument(0), aml.integer(EJECT_REQUEST)), failed),
            aml.if_(aml.equal(aml.argument(0), aml.integer(EJECTION_PROCESSING)), failed),
        ),
    ]  # fmt: skip
