"""Every trace event of the PCI and virtio models fires."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from manor.backends.char.memory import MemoryBackend
from manor.base.address import Gpa
from manor.bus.bus import Bus
from manor.devices.pci.host import PciHost, Window
from manor.devices.virtio.console import VirtioConsole
from manor.devices.virtio.pci import VirtioPci
from manor.mem.guest_memory import GuestMemory, Region
from manor.testing.fakes import FakeIrq, FakeMsi
from manor.testing.pci_driver import VirtioPciDriver, enumerate_functions
from manor.testing.virtq_driver import Allocator, DeferQueue, VirtqDriver
from manor.trace.event import declared
from manor.trace.sink import RingSink, disable, enable

ECAM = 0xE000_0000
PREFIXES = ("virtqueue_", "virtio_", "pci_", "msix_")
OWN_TESTS = ("virtio_blk_", "virtio_net_")
"""Device types whose own tests fire their events."""


@pytest.fixture
def ring() -> Iterator[RingSink]:
    sink = RingSink(10_000)
    enable("*", sink)
    yield sink
    disable("*", sink)


def test_every_event_fires(ring: RingSink) -> None:
    memory = GuestMemory([Region(Gpa(0), 1 << 20)])
    allocator = Allocator(0x1000, 1 << 20)
    defer = DeferQueue()
    bus = Bus("mmio")
    window = Window("memory", 0xC000_0000, 0x1000_0000)
    host = PciHost(bus, Bus("pio"), FakeIrq(), FakeMsi(), [window])
    bus.map(ECAM, 1 << 28, host.ecam, "ecam")
    backends = [MemoryBackend(), MemoryBackend()]
    host.add(1, VirtioPci(VirtioConsole("console0", memory, defer, backends, multiport=True)))
    host.reset()
    function = enumerate_functions(bus, ECAM)[1]
    function.size_bars()
    function.enable()
    function.program_msix(0xFEE0_0000, 0x20)
    driver = VirtioPciDriver(function)
    driver.negotiate((1 << 64) - 1)
    queues = []
    for index in range(6):
        queues.append(VirtqDriver(memory, allocator, 8))
        driver.set_up_queue(index, queues[index], index + 1)
    driver.write(0x10, 2, 0)
    driver.start()
    queues[3].add([bytes([255, 255, 255, 255, 0, 0, 1, 0])])
    driver.kick(3)
    queues[2].make_available(0x777)
    driver.kick(2)
    defer.run()
    function.write(4, 2, 0)
    fired = {name for name, _ in ring.events}
    ours = {name for name in declared if name.startswith(PREFIXES) and not name.startswith(OWN_TESTS)}
    assert not ours - fired
    assert "guest_error" in fired
