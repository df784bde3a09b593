"""virtio-pci: the PCI transport, modern interface only.

Source: VIRTIO 1.2, section 4.1 "Virtio Over PCI Bus".

BAR 0 holds the four structures, a page each, BAR 2 the MSI-X table. Each queue and the configuration may have
a vector; without MSI-X there is the INTx pin with the ISR status.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import partial

from manor.base.errors import SavedStateError
from manor.bus.doorbell import Doorbell
from manor.devices.pci.bar import Bar, BarKind
from manor.devices.pci.capability import CAP_ID_VENDOR, BytesCapability
from manor.devices.pci.config import FunctionState, Identity, PciFunction
from manor.devices.pci.msix import BAR_SIZE as MSIX_BAR_SIZE
from manor.devices.pci.msix import NO_VECTOR, Msix
from manor.devices.virtio.device import VirtioDevice, VirtioState
from manor.regs.access import RC, RO, RW
from manor.regs.block import RegisterBlock
from manor.regs.field import Field, Reg, RegisterTable, reserved
from manor.trace.event import declare, guest_error

VENDOR_ID = 0x1AF4
DEVICE_ID_BASE = 0x1040
"""PCI device ID of virtio device type 0 (4.1.2)."""

CLASS_CODES = {
    1: 0x02_00_00,  # network: Ethernet controller
    2: 0x01_80_00,  # block: other mass storage
    3: 0x07_80_00,  # console: other communication
    4: 0x10_00_00,  # entropy: network and computing encryption
    5: 0x05_80_00,  # memory balloon: other memory controller
    19: 0x07_80_00,  # socket: other communication
    26: 0x01_80_00,  # file system: other mass storage
}
"""Class by virtio device ID; drivers do not look at it, people do. Others: unclassified."""
CLASS_UNKNOWN = 0xFF_00_00

VIRTIO_PCI_CAP_COMMON_CFG = 1
VIRTIO_PCI_CAP_NOTIFY_CFG = 2
VIRTIO_PCI_CAP_ISR_CFG = 3
VIRTIO_PCI_CAP_DEVICE_CFG = 4
VIRTIO_PCI_CAP_PCI_CFG = 5

STRUCTURE_BAR = 0
MSIX_BAR = 2
PAGE = 0x1000
COMMON_OFFSET = 0 * PAGE
ISR_OFFSET = 1 * PAGE
DEVICE_OFFSET = 2 * PAGE
NOTIFY_OFFSET = 3 * PAGE
STRUCTURE_SIZE = 4 * PAGE
NOTIFY_MULTIPLIER = 4
QUEUE_LIMIT = PAGE // NOTIFY_MULTIPLIER

_CAP = struct.Struct("<BBBBxxII")  # after id and next: cap_len, cfg_type, bar, id, padding, offset, length (4.1.4)

_S = "VIRTIO 1.2, 4.1.4.3"
DEVICE_FEATURE_SELECT = Reg("device_feature_select", 0x00, 32, RW, source=_S)
DEVICE_FEATURE = Reg("device_feature", 0x04, 32, RO, stored=False, source=_S)
DRIVER_FEATURE_SELECT = Reg("driver_feature_select", 0x08, 32, RW, source=_S)
DRIVER_FEATURE = Reg("driver_feature", 0x0C, 32, RW, stored=False, source=_S)
CONFIG_MSIX_VECTOR = Reg("config_msix_vector", 0x10, 16, RW, stored=False, source=_S)
NUM_QUEUES = Reg("num_queues", 0x12, 16, RO, stored=False, source=_S)
DEVICE_STATUS = Reg("device_status", 0x14, 8, RW, stored=False, source=_S)
CONFIG_GENERATION = Reg("config_generation", 0x15, 8, RO, stored=False, source=_S)
QUEUE_SELECT = Reg("queue_select", 0x16, 16, RW, source=_S)
QUEUE_SIZE = Reg("queue_size", 0x18, 16, RW, stored=False, source=_S)
QUEUE_MSIX_VECTOR = Reg("queue_msix_vector", 0x1A, 16, RW, stored=False, source=_S)
QUEUE_ENABLE = Reg("queue_enable", 0x1C, 16, RW, stored=False, source=_S)
QUEUE_NOTIFY_OFF = Reg("queue_notify_off", 0x1E, 16, RO, stored=False, source=_S)
QUEUE_DESC_LOW = Reg("queue_desc_low", 0x20, 32, RW, stored=False, source=_S)
QUEUE_DESC_HIGH = Reg("queue_desc_high", 0x24, 32, RW, stored=False, source=_S)
QUEUE_DRIVER_LOW = Reg("queue_driver_low", 0x28, 32, RW, stored=False, source=_S)
QUEUE_DRIVER_HIGH = Reg("queue_driver_high", 0x2C, 32, RW, stored=False, source=_S)
QUEUE_DEVICE_LOW = Reg("queue_device_low", 0x30, 32, RW, stored=False, source=_S)
QUEUE_DEVICE_HIGH = Reg("queue_device_high", 0x34, 32, RW, stored=False, source=_S)
QUEUE_NOTIFY_DATA = Reg("queue_notify_data", 0x38, 16, RO, stored=False, source=_S)
QUEUE_RESET = Reg("queue_reset", 0x3A, 16, RW, stored=False, source=_S)

COMMON_TABLE = RegisterTable(
    "virtio-pci common configuration",
    0x3C,
    (
        DEVICE_FEATURE_SELECT, DEVICE_FEATURE, DRIVER_FEATURE_SELECT, DRIVER_FEATURE, CONFIG_MSIX_VECTOR,
        NUM_QUEUES, DEVICE_STATUS, CONFIG_GENERATION, QUEUE_SELECT, QUEUE_SIZE, QUEUE_MSIX_VECTOR,
        QUEUE_ENABLE, QUEUE_NOTIFY_OFF, QUEUE_DESC_LOW, QUEUE_DESC_HIGH, QUEUE_DRIVER_LOW, QUEUE_DRIVER_HIGH,
        QUEUE_DEVICE_LOW, QUEUE_DEVICE_HIGH, QUEUE_NOTIFY_DATA, QUEUE_RESET,
    ),
    split=True,  # a 64-bit address may be accessed whole (4.1.3.1)
    source="VIRTIO 1.2, 4.1.4.3 struct virtio_pci_common_cfg",
)  # fmt: skip

ISR_STATUS = Reg(
    "isr_status",
    0,
    8,
    RC,
    fields=(Field("queue", 0), Field("config", 1), reserved(2, 6)),
    source="VIRTIO 1.2, 4.1.4.5",
)
ISR_TABLE = RegisterTable("virtio-pci ISR status", 4, (ISR_STATUS,), split=True)

PCI_CFG = RegisterTable(
    "virtio-pci configuration access",
    20,
    (
        Reg("header", 0, 32, RO, source="VIRTIO 1.2, 4.1.4"),
        Reg("bar", 4, 8, RW, source="VIRTIO 1.2, 4.1.4.9"),
        Reg("id", 5, 8, RO, source="VIRTIO 1.2, 4.1.4"),
        Reg("padding", 6, 16, RO, source="VIRTIO 1.2, 4.1.4"),
        Reg("offset", 8, 32, RW, source="VIRTIO 1.2, 4.1.4.9"),
        Reg("length", 12, 32, RW, source="VIRTIO 1.2, 4.1.4.9"),
        Reg("pci_cfg_data", 16, 32, RW, stored=False, source="VIRTIO 1.2, 4.1.4.9"),
    ),
    split=True,
    source="VIRTIO 1.2, 4.1.4.9 PCI configuration access capability",
)

virtio_pci_interrupt = declare("virtio_pci_interrupt", device=str, vector=int)


class PciCfgCapability:
    """The window through configuration space: bar, offset, length choose what is accessed (4.1.4.9)."""

    cap_id = CAP_ID_VENDOR
    size = PCI_CFG.size

    def __init__(self, function: VirtioPci) -> None:
        self._function = function
        self.registers = RegisterBlock(PCI_CFG, self, f"{function.name} pci-cfg")
        self.reset()

    def reset(self) -> None:
        self.registers.reset()
        self.registers[PCI_CFG.by_name["header"]] = PCI_CFG.size << 16 | VIRTIO_PCI_CAP_PCI_CFG << 24

    def read(self, offset: int, size: int) -> int:
        return self.registers.read(offset, size)

    def write(self, offset: int, size: int, value: int) -> None:
        # The data window takes narrow writes too; a register that is not stored does not.
        self.registers.write(offset if offset < 16 else 16, size if offset < 16 else 4, value)

    def on_read_pci_cfg_data(self) -> int:
        chosen = self._chosen()
        return 0 if chosen is None else chosen[0].target.read(chosen[1], chosen[2])

    def on_write_pci_cfg_data(self, value: int) -> None:
        chosen = self._chosen()
        if chosen is not None:
            bar, offset, size = chosen
            bar.target.write(offset, size, value & (1 << 8 * size) - 1)

    def _chosen(self) -> tuple[Bar, int, int] | None:
        """BAR, offset and size of the access the driver set up; None if it makes no sense."""
        index, offset, size = (self.registers[PCI_CFG.by_name[name]] for name in ("bar", "offset", "length"))
        for bar in self._function.bars:
            if bar.index == index and size in (1, 2, 4) and offset % size == 0 and offset + size <= bar.size:
                return bar, offset, size
        self._function.report(f"configuration access to BAR {index}, offset {offset:#x}, size {size}")
        return None


@dataclass(frozen=True, slots=True)
class VirtioPciState:
    """Function, transport and device. vectors: per queue."""

    function: FunctionState
    device: VirtioState
    common: dict[str, int | str]
    isr: dict[str, int | str]
    pci_cfg: dict[str, int | str]
    config_vector: int
    vectors: tuple[int, ...]


class VirtioPci(PciFunction):
    """The PCI function of a virtio device, which it owns: resets, saves and loads it. Target of BAR 0."""

    def __init__(self, device: VirtioDevice) -> None:
        self.device = device
        count = len(device.queues)
        if count > QUEUE_LIMIT:
            raise ValueError(f"{device.name}: {count} queues, at most {QUEUE_LIMIT}")
        name = device.name
        msix = Msix(f"{name} msix", count + 1, MSIX_BAR, self.update_intx)
        super().__init__(
            name,
            Identity(
                vendor_id=VENDOR_ID,
                device_id=DEVICE_ID_BASE + device.DEVICE_ID,
                class_code=CLASS_CODES.get(device.DEVICE_ID, CLASS_UNKNOWN),
                revision_id=1,  # 4.1.2.1: 1 or higher for non-transitional devices
                subsystem_vendor_id=VENDOR_ID,
                subsystem_id=DEVICE_ID_BASE,  # 4.1.2.1: 0x40 or higher for non-transitional devices
            ),
            bars=(
                Bar(STRUCTURE_BAR, BarKind.MEMORY64, STRUCTURE_SIZE, self, f"{name} virtio"),
                Bar(MSIX_BAR, BarKind.MEMORY32, MSIX_BAR_SIZE, msix, f"{name} msix"),
            ),
            msix=msix,
            interrupt_pin=1,
        )
        self._vectors = msix
        self._common = RegisterBlock(COMMON_TABLE, self, f"{name} common")
        self._isr = RegisterBlock(ISR_TABLE, self, f"{name} isr")
        for cfg_type, offset, size, extra in (
            (VIRTIO_PCI_CAP_COMMON_CFG, COMMON_OFFSET, COMMON_TABLE.size, b""),
            (VIRTIO_PCI_CAP_ISR_CFG, ISR_OFFSET, 1, b""),
            (VIRTIO_PCI_CAP_DEVICE_CFG, DEVICE_OFFSET, device.config_size, b""),
            (
                VIRTIO_PCI_CAP_NOTIFY_CFG,
                NOTIFY_OFFSET,
                NOTIFY_MULTIPLIER * count,
                struct.pack("<I", NOTIFY_MULTIPLIER),
            ),
        ):
            if size:
                body = _CAP.pack(16 + len(extra), cfg_type, STRUCTURE_BAR, 0, offset, size) + extra
                self.add_capability(BytesCapability(CAP_ID_VENDOR, body))
        self.pci_cfg = PciCfgCapability(self)
        self.add_capability(self.pci_cfg)
        device.notifier = self
        self._clear()

    def _clear(self) -> None:
        """Forget what the driver told the transport."""
        self._common.reset()
        self._isr.reset()
        self._config_vector = NO_VECTOR
        self._queue_vectors = [NO_VECTOR] * len(self.device.queues)

    def report(self, message: str) -> None:
        """Trace a mistake of the guest."""
        if guest_error.on:
            guest_error(self.name, message)

    # -- BAR 0 --

    def read(self, offset: int, size: int) -> int:
        page, inside = offset & ~(PAGE - 1), offset & (PAGE - 1)
        if page == COMMON_OFFSET:
            return self._common.read(inside, size)
        if page == ISR_OFFSET:
            return self._isr.read(inside, size)
        if page == DEVICE_OFFSET:
            return self.device.read_config(inside, size)
        return 0  # notification addresses are write-only; reading is harmless

    def write(self, offset: int, size: int, value: int) -> None:
        page, inside = offset & ~(PAGE - 1), offset & (PAGE - 1)
        if page == NOTIFY_OFFSET:
            # The address says which queue; the value repeats it and is not trusted (4.1.5.2).
            if inside % NOTIFY_MULTIPLIER:
                self.report(f"notification at offset {inside:#x}")
            else:
                self.device.kick(inside // NOTIFY_MULTIPLIER)
        elif page == COMMON_OFFSET:
            self._common.write(inside, size, value)
        elif page == DEVICE_OFFSET:
            self.device.write_config(inside, size, value)
        else:
            self.report(f"write at {inside:#x} of the ISR status")

    def doorbells(self) -> list[Doorbell]:
        """DoorbellTarget: the notification address of each queue."""
        return [
            Doorbell(NOTIFY_OFFSET + NOTIFY_MULTIPLIER * index, partial(self.device.kick, index))
            for index in range(len(self.device.queues))
        ]

    # -- Notifier: the device's side --

    def queue_used(self, index: int) -> None:
        if not self._vectors.is_enabled:
            self._isr.put(ISR_STATUS, "queue", 1)
        self._interrupt(self._queue_vectors[index])

    def config_changed(self) -> None:
        self._isr.put(ISR_STATUS, "config", 1)  # with MSI-X too (4.1.4.5.1)
        self._interrupt(self._config_vector)

    def _interrupt(self, vector: int) -> None:
        if virtio_pci_interrupt.on:
            virtio_pci_interrupt(self.name, vector)
        if self._vectors.is_enabled:
            self._vectors.notify(vector)
        else:
            self.set_intx(True)

    # -- register hooks: the common configuration acts on the queue `queue_select` names --

    def _selected(self) -> int | None:
        index = self._common[QUEUE_SELECT]
        return index if index < len(self.device.queues) else None

    def _settable(self) -> int | None:
        """The selected queue, if it exists and may still be set up."""
        index = self._selected()
        if index is None:
            self.report(f"set-up of queue {self._common[QUEUE_SELECT]}, which does not exist")
            return None
        if self.device.queues[index].enabled:
            self.report(f"set-up of queue {index}, which is enabled")
            return None
        return index

    def on_read_isr_status(self) -> int:
        value = self._isr[ISR_STATUS]
        self.set_intx(False)
        return value

    def on_read_device_feature(self) -> int:
        select = self._common[DEVICE_FEATURE_SELECT]
        return self.device.offered_features >> 32 * select & 0xFFFF_FFFF if select < 2 else 0

    def on_read_driver_feature(self) -> int:
        select = self._common[DRIVER_FEATURE_SELECT]
        return self.device.driver_features >> 32 * select & 0xFFFF_FFFF if select < 2 else 0

    def on_write_driver_feature(self, value: int) -> None:
        self.device.write_driver_features(self._common[DRIVER_FEATURE_SELECT], value)

    def on_read_config_msix_vector(self) -> int:
        return self._config_vector

    def on_write_config_msix_vector(self, value: int) -> None:
        self._config_vector = self._usable_vector(value)

    def _usable_vector(self, value: int) -> int:
        """NO_VECTOR for one that does not exist: the driver reads it back to find out (4.1.5.1.2.1)."""
        return value if value < self._vectors.vectors else NO_VECTOR

    def on_read_num_queues(self) -> int:
        return len(self.device.queues)

    def on_read_device_status(self) -> int:
        return self.device.status

    def on_write_device_status(self, value: int) -> None:
        if value == 0:
            self._clear()
            self.set_intx(False)
        self.device.write_status(value)

    def on_read_config_generation(self) -> int:
        return self.device.config_generation

    def on_read_queue_size(self) -> int:
        index = self._selected()
        return 0 if index is None else self.device.queues[index].size

    def on_write_queue_size(self, value: int) -> None:
        index = self._settable()
        if index is not None and not self.device.queues[index].set_size(value):
            self.report(f"queue {index}: size {value}")

    def on_read_queue_msix_vector(self) -> int:
        index = self._selected()
        return NO_VECTOR if index is None else self._queue_vectors[index]

    def on_write_queue_msix_vector(self, value: int) -> None:
        index = self._selected()
        if index is not None:
            self._queue_vectors[index] = self._usable_vector(value)

    def on_read_queue_enable(self) -> int:
        index = self._selected()
        return int(index is not None and self.device.queues[index].enabled)

    def on_write_queue_enable(self, value: int) -> None:
        if value != 1:
            self.report(f"queue_enable written with {value}")
            return
        index = self._settable()
        if index is not None:
            self.device.enable_queue(index)

    def on_read_queue_notify_off(self) -> int:
        return self._selected() or 0

    def on_read_queue_notify_data(self) -> int:
        return self._selected() or 0

    def on_read_queue_desc_low(self) -> int:
        return self._area("descriptor_area", 0)

    def on_read_queue_desc_high(self) -> int:
        return self._area("descriptor_area", 32)

    def on_read_queue_driver_low(self) -> int:
        return self._area("driver_area", 0)

    def on_read_queue_driver_high(self) -> int:
        return self._area("driver_area", 32)

    def on_read_queue_device_low(self) -> int:
        return self._area("device_area", 0)

    def on_read_queue_device_high(self) -> int:
        return self._area("device_area", 32)

    def on_write_queue_desc_low(self, value: int) -> None:
        self._set_area("descriptor_area", 0, value)

    def on_write_queue_desc_high(self, value: int) -> None:
        self._set_area("descriptor_area", 32, value)

    def on_write_queue_driver_low(self, value: int) -> None:
        self._set_area("driver_area", 0, value)

    def on_write_queue_driver_high(self, value: int) -> None:
        self._set_area("driver_area", 32, value)

    def on_write_queue_device_low(self, value: int) -> None:
        self._set_area("device_area", 0, value)

    def on_write_queue_device_high(self, value: int) -> None:
        self._set_area("device_area", 32, value)

    def _area(self, name: str, shift: int) -> int:
        index = self._selected()
        if index is None:
            return 0
        address: int = getattr(self.device.queues[index], name)
        return address >> shift & 0xFFFF_FFFF

    def _set_area(self, name: str, shift: int, value: int) -> None:
        index = self._settable()
        if index is not None:
            queue = self.device.queues[index]
            address: int = getattr(queue, name)
            setattr(queue, name, address & ~(0xFFFF_FFFF << shift) | value << shift)

    def on_read_queue_reset(self) -> int:
        # 4.1.4.3.1: 1 until the reset is over.
        index = self._selected()
        return int(index is not None and self.device.queues[index].is_resetting)

    def on_write_queue_reset(self, value: int) -> None:
        index = self._selected()
        if value != 1 or index is None:
            self.report(f"queue_reset of queue {self._common[QUEUE_SELECT]} written with {value}")
            return
        self.device.reset_queue(index)

    # -- lifecycle --

    def reset(self) -> None:
        super().reset()
        self.pci_cfg.reset()
        self._clear()
        self.device.reset()

    def save(self) -> VirtioPciState:
        return VirtioPciState(
            function=self.save_function(),
            device=self.device.save(),
            common=self._common.save(),
            isr=self._isr.save(),
            pci_cfg=self.pci_cfg.registers.save(),
            config_vector=self._config_vector,
            vectors=tuple(self._queue_vectors),
        )

    def load(self, state: object) -> None:
        if not isinstance(state, VirtioPciState):
            raise SavedStateError(self.name, "not a virtio-pci function")
        function = self.check_function(state.function)
        self.device.check(state.device)
        self._common.check(state.common)
        self._isr.check(state.isr)
        self.pci_cfg.registers.check(state.pci_cfg)
        vectors = (state.config_vector, *state.vectors)
        if len(state.vectors) != len(self._queue_vectors) or any(
            type(vector) is not int or vector < 0 or self._usable_vector(vector) != vector for vector in vectors
        ):
            raise SavedStateError(self.name, f"vectors {vectors}")
        self._common.load(state.common)
        self._isr.load(state.isr)
        self.pci_cfg.registers.load(state.pci_cfg)
        self._config_vector = state.config_vector
        self._queue_vectors = list(state.vectors)
        self.load_function(function)
        self.device.load(state.device)
