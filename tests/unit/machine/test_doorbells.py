"""Doorbells of devices become eventfds where the accelerator offers it."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from manor.base.errors import HostError
from manor.bus.bus import Bus
from manor.bus.doorbell import Doorbell
from manor.machine.doorbells import DirectDoorbells, DoorbellWiring
from manor.machine.pc import PcExits
from manor.trace import sink


class Port:
    """accel.api.Doorbells that remembers, and refuses addresses in `full`."""

    def __init__(self) -> None:
        self.attached: dict[int, int] = {}
        self.full: set[int] = set()

    def attach(self, fd: int, address: int, is_port: bool) -> None:
        if address in self.full:
            raise HostError("no more")
        self.attached[address] = fd

    def detach(self, fd: int, address: int, is_port: bool) -> None:
        assert self.attached.pop(address) == fd


class Readers:
    def __init__(self) -> None:
        self.callbacks: dict[int, Callable[[], None]] = {}

    def watch(self, fd: int, callback: Callable[[], None]) -> None:
        self.callbacks[fd] = callback

    def unwatch(self, fd: int, then: Callable[[], None]) -> None:
        del self.callbacks[fd]
        then()


class Device:
    """A target with two doorbells."""

    def __init__(self) -> None:
        self.rung: list[int] = []

    def read(self, offset: int, size: int) -> int:
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        pass

    def doorbells(self) -> list[Doorbell]:
        return [Doorbell(0x10, lambda: self.rung.append(0)), Doorbell(0x14, lambda: self.rung.append(1))]


class Plain:
    def read(self, offset: int, size: int) -> int:
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        pass


@pytest.fixture
def parts() -> tuple[Bus, Port, Readers, DoorbellWiring]:
    port, readers, lock = Port(), Readers(), threading.RLock()
    bus = Bus("mmio", lock)
    wiring = DoorbellWiring(port, readers, lock, is_port=False)
    bus.watcher = wiring
    return bus, port, readers, wiring


def test_ring_follows_the_device_wherever_it_is_mapped(parts: tuple[Bus, Port, Readers, DoorbellWiring]) -> None:
    bus, port, readers, wiring = parts
    device = Device()
    bus.map(0x1000, 0x100, device, "device")
    bus.map(0x8000, 0x100, Plain(), "plain")
    assert set(port.attached) == {0x1010, 0x1014}
    os.eventfd_write(port.attached[0x1014], 3)
    readers.callbacks[port.attached[0x1014]]()
    readers.callbacks[port.attached[0x1014]]()  # spurious: nothing more to read
    assert device.rung == [1]
    bus.remap(0x1000, 0x2000)
    assert set(port.attached) == {0x2010, 0x2014}
    with pytest.raises(ValueError, match="overlaps"):
        bus.remap(0x2000, 0x8000)
    assert set(port.attached) == {0x2010, 0x2014}
    wiring.close()
    assert not port.attached
    assert not readers.callbacks
    bus.unmap(0x2000)


def test_refused_doorbell_stays_an_ordinary_address(parts: tuple[Bus, Port, Readers, DoorbellWiring]) -> None:
    bus, port, readers, _ = parts
    port.full = {0x1014}
    ring = sink.RingSink()
    sink.enable("doorbell_attach", ring)
    try:
        bus.map(0x1000, 0x100, Device(), "device")
    finally:
        sink.disable("*", ring)
    assert list(port.attached) == [0x1010]
    assert len(readers.callbacks) == 1
    assert [values for _, values in ring.events] == [(0x1010, True), (0x1014, False)]
    bus.unmap(0x1000)


class TestDirect:
    """Without an accelerator's help."""

    def bench(self) -> tuple[Bus, PcExits, Device]:
        bus, device, direct = Bus("mmio"), Device(), DirectDoorbells()
        exits = PcExits(Bus("pio"), bus, [], [])
        bus.watcher, exits.doorbells = direct, direct.ring_of
        bus.map(0x1000, 0x100, device, "device")
        return bus, exits, device

    def test_a_write_to_one_rings_and_does_nothing_else(self) -> None:
        _, exits, device = self.bench()
        for address in (0x1010, 0x1014, 0x1018, 0x1012, 0x2010):
            exits.mmio_write(0, address, 4, 7)
        assert device.rung == [0, 1]
        assert exits.by_device() == {"device": 4, "unmapped": 1}

    def test_they_move_with_their_target(self) -> None:
        bus, exits, device = self.bench()
        bus.remap(0x1000, 0x3000)
        exits.mmio_write(0, 0x1010, 4, 0)
        assert device.rung == []
        exits.mmio_write(0, 0x3014, 2, 0)
        assert device.rung == [1]
        bus.unmap(0x3000)
        exits.mmio_write(0, 0x3014, 2, 0)
        assert device.rung == [1]

    def test_the_lock_of_the_machine_is_held(self) -> None:
        bus, exits, _ = self.bench()
        held: list[bool] = []

        def is_free() -> bool:
            found = bus.lock.acquire(blocking=False)
            if found:
                bus.lock.release()
            return found

        def ring() -> None:
            with ThreadPoolExecutor(1) as other:
                held.append(not other.submit(is_free).result())

        exits.doorbells = {0x1010: ring}
        exits.mmio_write(0, 0x1010, 2, 0)
        assert held == [True]
