"""VMs of QEMU, with a program in its place: life, events, a daemon that goes and comes, plugging, ends of all kinds."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from manor.base.errors import ApiError, ConfigError, HostError
from manor.domain.state import PausedReason
from manor.domain.xml import domain as domain_xml
from manor.domain.xml.changes import NamedDevice, by_alias, parse_device
from manor.domain.xml.domain import Domain
from manor.domain.xml.normal import normalise
from manor.drivers.hypervisor import (
    AgentChanged,
    Crashed,
    End,
    Ended,
    Found,
    Happening,
    Paused,
    Rebooted,
    Removed,
    Resumed,
    ShuttingDown,
)
from manor.drivers.qemu import hotplug
from manor.drivers.qemu.command import HOTPLUG_PORTS
from manor.drivers.qemu.hypervisor import QemuHypervisor, find_binary, live_document
from manor.drivers.qemu.layout import Files
from manor.testing import fake_qemu
from manor.trace.sink import RingSink, disable, enable

TEXT = """
<domain type='qemu'>
  <name>q</name>
  <uuid>6695eb01-f6a4-8304-79aa-97f2502e193f</uuid>
  <memory unit='MiB'>128</memory>
  <currentMemory unit='MiB'>64</currentMemory>
  <vcpu>1</vcpu>
  <os><type machine='q35'>hvm</type></os>
  ON
  <devices>
    <disk type='file'><source file='/a'/><target dev='vda' bus='virtio'/></disk>
    <disk type='file' device='cdrom'><target dev='sda' bus='sata'/><readonly/></disk>
    <interface type='user'><mac address='52:54:00:00:00:01'/><link state='down'/></interface>
    <serial type='pty'/>
    <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
    <memballoon model='virtio'/>
    <graphics type='vnc' port='-1' passwd='geheim'/>
  </devices>
</domain>
"""
BALLOON = "/machine/peripheral/balloon0"
UUID_BYTES = UUID("6695eb01-f6a4-8304-79aa-97f2502e193f").bytes


class Place:
    """A directory of VMs, and what happened to them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.binary = str(fake_qemu.install(root))
        self.happened: list[Happening] = []
        self.made = self.new()

    def new(self) -> QemuHypervisor:
        return QemuHypervisor(self.root / "run", "dbt", binary=self.binary)

    @property
    def directory(self) -> Path:
        return self.root / "run" / str(UUID(bytes=UUID_BYTES))

    def document(self, on: str = "") -> Domain:
        text = TEXT.replace("ON", on)
        return normalise(domain_xml.parse(text), emulator=self.binary, machine=None)

    async def start(self, on: str = "", paused: bool = False) -> Domain:
        assert await self.made.recover(self.happened.append) == ([], [])
        live = await self.made.start(self.document(on), 7, paused)
        await self.made.keep_live(UUID_BYTES, domain_xml.format(live))
        return live

    def order(self, **order: Any) -> None:
        with (self.directory / "orders").open("a") as file:
            file.write(json.dumps(order) + "\n")

    @property
    def asked(self) -> list[tuple[str, dict[str, Any]]]:
        lines = (self.directory / "asked").read_text().splitlines()
        return [(each["command"], each["arguments"]) for each in map(json.loads, lines)]

    async def until(self, *wanted: Happening) -> None:
        """Wait for just these happenings; they are forgotten then."""
        for _ in range(1000):
            if len(self.happened) >= len(wanted):
                break
            await asyncio.sleep(0.01)
        assert self.happened == list(wanted)
        self.happened.clear()

    async def pause(self) -> None:
        """Until an order must have been followed."""
        await asyncio.sleep(0.1)

    def kill_leftovers(self) -> None:
        with suppress(OSError, ValueError):
            os.kill(int((self.directory / "lock").read_text()), signal.SIGKILL)


@pytest.fixture
def run(tmp_path: Path) -> Any:
    place = Place(tmp_path)

    def work(what: Callable[[Place], Awaitable[None]]) -> None:
        async def main() -> None:
            try:
                await asyncio.wait_for(what(place), 30)
            finally:
                await place.made.close()

        try:
            asyncio.run(main())
        finally:
            place.kill_leftovers()

    return work


Run = Callable[[Callable[[Place], Awaitable[None]]], None]


def test_a_vm_starts_and_ends(run: Run) -> None:
    async def work(place: Place) -> None:
        live = await place.start()
        assert live.id == 7
        assert [disk.alias for disk in live.devices.disks] == ["virtio-disk0", "sata-disk0"]
        assert live.devices.interfaces[0].target == "vnet0"
        graphics = next(extra.node for extra in live.devices.extras)
        assert graphics.get("socket") == str(place.directory / "vnc")
        assert graphics.get("port") is None
        assert (place.directory / "vnc-password").read_text() == "geheim"
        assert (place.directory / "command").read_text().startswith(f"{place.binary}\0-name\0guest=q")
        assert place.asked == [
            ("qmp_capabilities", {}),
            ("query-cpus-fast", {}),
            ("set_link", {"name": "net0", "up": False}),
            ("qom-set", {"path": BALLOON, "property": "guest-stats-polling-interval", "value": 5}),
            ("balloon", {"value": 64 << 20}),
            ("cont", {}),
        ]
        await place.made.stop(UUID_BYTES)
        assert place.asked[-1] == ("quit", {})
        assert not (place.directory / "record.json").exists()
        with pytest.raises(ApiError, match="not running"):
            await place.made.suspend(UUID_BYTES)
        await place.until(Ended(UUID_BYTES, End.STOPPED))

    run(work)


def test_requests(run: Run) -> None:
    async def work(place: Place) -> None:
        await place.start(paused=True)
        made = place.made
        assert "cont" not in [name for name, _ in place.asked]
        await made.resume(UUID_BYTES)
        await made.suspend(UUID_BYTES)
        await made.set_memory(UUID_BYTES, 1024)
        await made.resize_disk(UUID_BYTES, 0, 4096)
        await made.reset(UUID_BYTES)
        await made.shutdown(UUID_BYTES, False)
        assert place.asked[-6:] == [
            ("cont", {}), ("stop", {}), ("balloon", {"value": 1 << 20}),
            ("block_resize", {"node-name": "virtio-disk0-format", "size": 4096}), ("system_reset", {}),
            ("system_powerdown", {}),
        ]  # fmt: skip
        await place.pause()
        assert place.happened == [Rebooted(UUID_BYTES)]  # the rest is known to whoever asked for it
        assert await made.addresses(UUID_BYTES, 0) == []
        place.order(refuse="balloon", desc="no balloon device has been activated")
        await place.pause()
        with pytest.raises(ApiError, match="unable to execute QEMU command 'balloon': no balloon device"):
            await made.set_memory(UUID_BYTES, 1024)

    run(work)


def test_what_happens_by_itself(run: Run) -> None:
    async def work(place: Place) -> None:
        await place.start()
        await place.pause()
        sink = RingSink()
        enable("qemu_*", sink)
        place.order(event="STOP", data={})
        await place.until(Paused(UUID_BYTES, PausedReason.UNKNOWN))
        place.order(event="RESUME", data={})
        await place.until(Resumed(UUID_BYTES))
        place.order(event="BLOCK_IO_ERROR", data={"device": "", "action": "stop"})
        place.order(event="STOP", data={})
        await place.until(Paused(UUID_BYTES, PausedReason.IO_ERROR))
        place.order(event="WATCHDOG", data={"action": "pause"})
        place.order(event="STOP", data={})
        await place.until(Paused(UUID_BYTES, PausedReason.WATCHDOG))
        place.order(event="RESET", data={"guest": True, "reason": "guest-reset"})
        await place.until(Rebooted(UUID_BYTES))
        place.order(event="VSERPORT_CHANGE", data={"id": "channel0", "open": True})
        await place.until(AgentChanged(UUID_BYTES, True))
        for ignored in ("NIC_RX_FILTER_CHANGED", "RTC_CHANGE", "BALLOON_CHANGE"):
            place.order(event=ignored, data={})
        place.order(event="BLOCK_IO_ERROR", data={"action": "report"})
        place.order(event="VSERPORT_CHANGE", data={"id": "channel9", "open": True})
        place.order(event="DEVICE_DELETED", data={"path": "/machine/x"})
        place.order(event="DEVICE_DELETED", data={"device": "net0", "path": "/machine/peripheral/net0"})
        await place.until(Removed(UUID_BYTES, "net0"))
        assert ("netdev_del", {"id": "hostnet0"}) in place.asked
        place.order(event="DEVICE_UNPLUG_GUEST_ERROR", data={"device": "virtio-disk0"})
        await place.until(Removed(UUID_BYTES, "virtio-disk0", False))
        disable("qemu_*", sink)
        assert {name for name, _ in sink.events} == {"qemu_event", "qemu_command"}

    run(work)


@pytest.mark.parametrize(
    ("reason", "how"),
    [
        ("guest-shutdown", End.POWER_OFF), ("guest-reset", End.REBOOT), ("host-signal", End.STOPPED),
        ("new", End.STOPPED),
    ],
)  # fmt: skip
def test_ends(run: Run, reason: str, how: End) -> None:
    async def work(place: Place) -> None:
        await place.start()
        place.order(event="SHUTDOWN", data={"guest": True, "reason": reason})
        place.order(event="STOP", data={})
        first = [ShuttingDown(UUID_BYTES)] if how is End.POWER_OFF else []
        await place.until(*first, Ended(UUID_BYTES, how))
        assert place.asked[-1] == ("quit", {})

    run(work)


def test_a_guest_without_an_agent_reboots_by_the_button(run: Run) -> None:
    async def work(place: Place) -> None:
        await place.start()
        await place.made.reboot(UUID_BYTES, False)
        place.order(event="SHUTDOWN", data={"guest": True, "reason": "guest-shutdown"})
        place.order(event="STOP", data={})
        for _ in range(500):
            if place.asked[-1] == ("cont", {}) and len(place.asked) > 7:
                break
            await asyncio.sleep(0.01)
        assert place.asked[-2:] == [("system_reset", {}), ("cont", {})]
        await place.until(Rebooted(UUID_BYTES))
        await place.made.shutdown(UUID_BYTES, False)
        place.happened.clear()
        place.order(event="SHUTDOWN", data={"guest": True, "reason": "guest-shutdown"})
        await place.until(ShuttingDown(UUID_BYTES), Ended(UUID_BYTES, End.POWER_OFF))

    run(work)


def test_a_panic_leaves_the_vm_to_be_looked_at(run: Run) -> None:
    async def work(place: Place) -> None:
        await place.start()
        place.order(event="GUEST_PANICKED", data={"action": "pause"})
        place.order(event="STOP", data={})
        await place.pause()
        await place.until(Crashed(UUID_BYTES, "the guest panicked", is_paused=True))
        # It is the driver's to decide what becomes of it.
        await place.made.reset(UUID_BYTES)
        await place.made.resume(UUID_BYTES)
        await place.until(Rebooted(UUID_BYTES))

    run(work)


def test_qemu_that_dies_is_told_with_its_words(run: Run) -> None:
    async def work(place: Place) -> None:
        await place.start()
        place.order(exit=3)
        await place.until(Ended(UUID_BYTES, End.FAILED, "QEMU ended with status 3: as it was told"))
        place.made = place.new()
        (place.directory / "orders").unlink()
        await place.start()
        os.kill(int((place.directory / "lock").read_text()), signal.SIGKILL)
        await place.until(
            Ended(UUID_BYTES, End.LOST, f"QEMU was killed (signal 9); see {place.directory}/qemu.log")
        )
        with pytest.raises(ApiError, match="not running"):
            await place.made.statistics(UUID_BYTES)

    run(work)


def test_qemu_that_does_not_start_is_told_with_its_words(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_QEMU_FAILS", "-device x: 'x' is not a valid device model name")

    async def work(place: Place) -> None:
        await place.made.recover(place.happened.append)
        with pytest.raises(ApiError, match="QEMU ended before the VM ran: -device x: 'x' is not a valid"):
            await place.made.start(place.document(), 1, False)
        assert not (place.directory / "record.json").exists()
        assert place.happened == []

    run(work)


def test_a_command_that_fails_at_the_start_leaves_nothing_running(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(self: Any, vm: Any, made: Any, paused: bool) -> None:
        raise HostError("it went wrong")

    async def work(place: Place) -> None:
        await place.made.recover(place.happened.append)
        monkeypatch.setattr(QemuHypervisor, "_settle", refuse)
        with pytest.raises(HostError, match="it went wrong"):
            await place.made.start(place.document(), 1, False)
        pid = int((place.directory / "lock").read_text())
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
        assert place.happened == []

    run(work)


def test_vms_outlive_the_daemon(run: Run) -> None:
    async def work(place: Place) -> None:
        live = await place.start()
        await place.made.close()
        place.made = place.new()
        found, ended = await place.made.recover(place.happened.append)
        assert found == [Found(UUID_BYTES, 7, domain_xml.format(live))]
        assert ended == []
        await place.made.suspend(UUID_BYTES)
        stream = await place.made.console(UUID_BYTES, "", False)
        await stream.write(b"hello")
        assert await stream.read(100) == b"hello"
        stream.close()
        place.order(event="SHUTDOWN", data={"guest": True, "reason": "guest-shutdown"})
        await place.until(ShuttingDown(UUID_BYTES), Ended(UUID_BYTES, End.POWER_OFF))

    run(work)


@pytest.mark.parametrize(
    ("status", "found", "how"),
    [
        ("paused", True, None), ("io-error", True, None), ("running", False, None), ("shutdown", None, End.POWER_OFF),
        ("internal-error", None, End.LOST), ("guest-panicked", True, None),
    ],
)  # fmt: skip
def test_what_happened_while_nobody_watched(run: Run, status: str, found: bool | None, how: End | None) -> None:
    async def work(place: Place) -> None:
        live = await place.start()
        place.order(answer="query-status", value={"status": status})
        await place.pause()
        await place.made.close()
        place.made = place.new()
        vms, ended = await place.made.recover(place.happened.append)
        if found is None:
            assert vms == []
            assert [(end.uuid, end.how) for end in ended] == [(UUID_BYTES, how)]
            assert not (place.directory / "record.json").exists()
        else:
            has_crashed = status == "guest-panicked"
            assert vms == [Found(UUID_BYTES, 7, domain_xml.format(live), found, has_crashed)]

    run(work)


def test_leftovers_are_told_apart(run: Run) -> None:
    async def work(place: Place) -> None:
        await place.start()
        await place.made.close()
        os.kill(int((place.directory / "lock").read_text()), signal.SIGKILL)
        await asyncio.sleep(0.1)
        for name, text in (("notes", "{}"), ("x", "["), (str(UUID(int=5)), '{"number": 1, "live": "<domain/>"}')):
            (place.root / "run" / name).mkdir()
            (place.root / "run" / name / "record.json").write_text(text)
        place.made = place.new()
        vms, ended = await place.made.recover(place.happened.append)
        assert vms == []
        assert [end.how for end in ended] == [End.LOST]

    run(work)


def device(text: str) -> NamedDevice:
    return parse_device(text)


DISK = "<disk type='file'><source file='/b'/><target dev='vdb' bus='virtio'/></disk>"
NIC = "<interface type='user'><mac address='52:54:00:00:00:02'/></interface>"


def test_devices_come(run: Run) -> None:
    async def work(place: Place) -> None:
        live = await place.start()
        before = len(place.asked)
        live = await place.made.attach(UUID_BYTES, live, device(DISK))
        live = await place.made.attach(UUID_BYTES, live, device(NIC))
        assert [name for name, _ in place.asked[before:]] == [
            "blockdev-add", "blockdev-add", "device_add", "netdev_add", "device_add",
        ]  # fmt: skip
        assert place.asked[before + 2][1] == {
            "driver": "virtio-blk-pci", "id": "virtio-disk1", "drive": "virtio-disk1-format", "bus": "hotplug0",
        }  # fmt: skip
        assert place.asked[before + 3][1] == {"type": "user", "id": "hostnet1"}
        assert [nic.alias for nic in live.devices.interfaces] == ["net0", "net1"]
        assert live.devices.interfaces[1].target == "vnet1"
        for text, wrong in (
            (DISK.replace("vdb' bus='virtio", "sdc' bus='scsi"), "no controller for bus='scsi'"),
            ("<rng model='virtio'><backend model='random'/></rng>", "<rng> of a running domain cannot be added"),
        ):
            with pytest.raises(ApiError, match=wrong):
                await place.made.attach(UUID_BYTES, live, device(text))

    run(work)


def test_a_device_that_is_refused_leaves_nothing(run: Run) -> None:
    async def work(place: Place) -> None:
        live = await place.start()
        place.order(refuse="device_add", desc="PCI: slot 0 function 0 not available for x, in use by y")
        await place.pause()
        before = len(place.asked)
        with pytest.raises(ApiError, match="all 8 ports .* are taken"):
            await place.made.attach(UUID_BYTES, live, device(DISK))
        names = [name for name, _ in place.asked[before:]]
        assert names.count("device_add") == HOTPLUG_PORTS
        assert names[-5:] == ["blockdev-del", "blockdev-del", "blockdev-del", "object-del", "netdev_del"]
        place.order(refuse="device_add", desc="no such thing")
        await place.pause()
        with pytest.raises(ApiError, match="unable to execute QEMU command 'device_add': no such thing"):
            await place.made.attach(UUID_BYTES, live, device(NIC))
        assert place.asked[-1] == ("netdev_del", {"id": "hostnet1"})

    run(work)


def test_devices_go(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(place: Place) -> None:
        live = await place.start()
        task = asyncio.ensure_future(place.made.detach(UUID_BYTES, live, by_alias(live, "net0")))
        await place.pause()
        place.order(event="DEVICE_DELETED", data={"device": "net0"})
        after = await task
        assert after is not None
        assert after.devices.interfaces == ()
        assert ("netdev_del", {"id": "hostnet0"}) in place.asked
        task = asyncio.ensure_future(place.made.detach(UUID_BYTES, live, by_alias(live, "virtio-disk0")))
        await place.pause()
        place.order(event="DEVICE_UNPLUG_GUEST_ERROR", data={"device": "virtio-disk0"})
        with pytest.raises(ApiError, match="does not let go of the device virtio-disk0"):
            await task
        # A guest that takes its time is told of by an event.
        monkeypatch.setattr(hotplug, "LEAVE_SECONDS", 0.05)
        assert await place.made.detach(UUID_BYTES, live, by_alias(live, "virtio-disk0")) is None
        place.order(event="DEVICE_DELETED", data={"device": "virtio-disk0"})
        await place.until(Removed(UUID_BYTES, "virtio-disk0"))
        assert ("blockdev-del", {"node-name": "virtio-disk0-storage"}) in place.asked
        with pytest.raises(ApiError, match="<memballoon> of a running domain cannot be removed"):
            await place.made.detach(UUID_BYTES, live, by_alias(live, "balloon0"))

    run(work)


def test_devices_change(run: Run) -> None:
    async def work(place: Place) -> None:
        live = await place.start()
        nic = "<interface type='user'><mac address='52:54:00:00:00:01'/><link state='up'/></interface>"
        before = len(place.asked)
        live = await place.made.update(UUID_BYTES, live, device(nic))
        assert place.asked[before:] == [("set_link", {"name": "net0", "up": True})]
        assert live.devices.interfaces[0].link == "up"
        medium = "<disk type='file' device='cdrom'><source file='/c.iso'/><target dev='sda' bus='sata'/></disk>"
        before = len(place.asked)
        live = await place.made.update(UUID_BYTES, live, device(medium))
        names = [name for name, _ in place.asked[before:]]
        assert [name for name in names if not name.endswith("del")] == [
            "blockdev-open-tray", "blockdev-remove-medium", "blockdev-add", "blockdev-add", "blockdev-insert-medium",
            "blockdev-close-tray",
        ]  # fmt: skip
        assert live.devices.disks[1].file == "/c.iso"
        with pytest.raises(ApiError, match="only the link's state can be changed"):
            await place.made.update(UUID_BYTES, live, device(nic.replace("<link", "<mtu size='1400'/><link")))
        with pytest.raises(ApiError, match="cannot be changed"):
            await place.made.update(UUID_BYTES, live, device(DISK.replace("vdb", "vda")))

    run(work)


def test_what_a_change_would_do_is_told_without_doing_it(run: Run) -> None:
    async def work(place: Place) -> None:
        live = await place.start()
        before = place.asked
        trial = place.made.trial(UUID_BYTES)
        disks = (await trial.attach(UUID_BYTES, live, device(DISK))).devices.disks
        assert sorted(disk.target or "" for disk in disks) == ["sda", "vda", "vdb"]
        after = await trial.detach(UUID_BYTES, live, by_alias(live, "net0"))
        assert after is not None
        assert after.devices.interfaces == ()
        up = "<interface type='user'><mac address='52:54:00:00:00:01'/><link state='up'/></interface>"
        assert (await trial.update(UUID_BYTES, live, device(up))).devices.interfaces[0].link == "up"
        with pytest.raises(ApiError, match="no controller for bus='scsi'"):
            await trial.attach(UUID_BYTES, live, device(DISK.replace("vdb' bus='virtio", "sdc' bus='scsi")))
        assert place.asked == before
        with pytest.raises(ApiError, match="room for 0 vCPUs"):
            await trial.set_vcpus(UUID_BYTES, 3)
        assert place.asked[len(before) :] == [("query-hotpluggable-cpus", {})]

    run(work)


def test_what_a_console_printed_is_kept_over_runs(run: Run) -> None:
    async def work(place: Place) -> None:
        assert (await place.made.console_log(UUID_BYTES, 0, 100)).data == b""
        await place.start()
        first = await place.made.console(UUID_BYTES, "", False)
        await first.write(b"one")
        assert await first.read(3) == b"one"
        await place.made.close()  # the daemon goes, and another comes
        place.made = place.new()
        await place.made.recover(place.happened.append)
        again = await place.made.console(UUID_BYTES, "", False)
        assert await again.read(100) == b"one"
        await again.write(b"two")
        assert await again.read(100) == b"two"
        assert tuple(await place.made.console_log(UUID_BYTES, 1, 4)) == (0, 1, 6, b"netw")
        await place.made.stop(UUID_BYTES)
        assert (await place.made.console_log(UUID_BYTES, -3, 100)).data == b"two"
        # Another run shows its own alone, and the log goes on.
        place.made = place.new()
        await place.start()
        third = await place.made.console(UUID_BYTES, "", False)
        await third.write(b"three")
        assert await third.read(100) == b"three"
        assert (await place.made.console_log(UUID_BYTES, 0, 100)).data == b"onetwothree"

    run(work)


def test_vcpus_come(run: Run) -> None:
    async def work(place: Place) -> None:
        await place.start()
        kind = {"type": "max-x86_64-cpu", "vcpus-count": 1}
        place.order(
            answer="query-hotpluggable-cpus",
            value=[
                {**kind, "props": {"socket-id": 1, "core-id": 0, "thread-id": 0}},
                {**kind, "props": {"socket-id": 0, "core-id": 0, "thread-id": 0}, "qom-path": "/machine/unattached/1"},
            ],
        )
        await place.pause()
        await place.made.set_vcpus(UUID_BYTES, 2)
        added = [arguments for name, arguments in place.asked if name == "device_add"]
        assert added == [{"driver": "max-x86_64-cpu", "id": "vcpu1", "socket-id": 1, "core-id": 0, "thread-id": 0}]
        with pytest.raises(ApiError, match="room for 2 vCPUs"):
            await place.made.set_vcpus(UUID_BYTES, 3)
        with pytest.raises(ApiError, match="not taken from a running domain"):
            await place.made.set_vcpus(UUID_BYTES, 0)

    run(work)


def test_counters(run: Run) -> None:
    async def work(place: Place) -> None:
        await place.start()
        stats = {"rd_operations": 1, "rd_bytes": 2, "wr_operations": 3, "wr_bytes": 4, "flush_operations": 5}
        place.order(
            answer="query-blockstats",
            value=[{"qdev": "/machine/peripheral/virtio-disk0/virtio-backend", "stats": stats}, "x", {"qdev": 1}],
        )
        place.order(answer="query-balloon", value={"actual": 32 << 20})
        place.order(
            answer="qom-get",
            value={"last-update": 1, "stats": {"stat-free-memory": 4096, "stat-major-faults": 3,
                                               "stat-swap-in": (1 << 64) - 1}},
        )  # fmt: skip
        await place.pause()
        found = await place.made.statistics(UUID_BYTES)
        assert found.memory == 32 << 10
        assert found.rss > 1000
        assert [(disk.rd_reqs, disk.rd_bytes, disk.wr_reqs, disk.wr_bytes, disk.fl_reqs) for disk in found.disks] == [
            (1, 2, 3, 4, 5)  # the empty drive is none of the machine's disks
        ]
        assert len(found.nics) == 1
        assert found.guest_memory == {4: 4, 2: 3}
        assert len(found.vcpu_times) == 1

    run(work)


def test_several_read_one_console(run: Run) -> None:
    async def work(place: Place) -> None:
        await place.start()
        first = await place.made.console(UUID_BYTES, "serial0", False)
        await first.write(b"one")
        assert await first.read(3) == b"one"
        second = await place.made.console(UUID_BYTES, "console0", False)
        assert await second.read(100) == b"one"  # what was printed before
        await second.write(b"two")
        assert await first.read(100) == b"two"
        third = await place.made.console(UUID_BYTES, "", True)
        assert await second.read(100) == b"two"
        assert await second.read(100) == b""  # it was cut off
        with pytest.raises(ApiError, match="cannot find character device serial5"):
            await place.made.console(UUID_BYTES, "serial5", False)
        await third.read(100)
        reading = asyncio.ensure_future(third.read(100))
        await place.made.stop(UUID_BYTES)
        assert await reading == b""
        await place.until(Ended(UUID_BYTES, End.STOPPED))

    run(work)


def test_what_could_not_run_is_refused_before(run: Run) -> None:
    async def work(place: Place) -> None:
        made = place.made
        with pytest.raises(ConfigError, match="the machine q35 has no IDE"):
            made.check(domain_xml.parse(domain_xml.format(place.document()).replace("'sata'", "'ide'")))
        assert made.check(place.document()) == []
        warned = made.check(place.document("<cputune><shares>5</shares></cputune>"))
        assert [one.path for one in warned] == ["domain/cputune"]

    run(work)


def test_without_qemu_the_fix_is_said() -> None:
    with pytest.raises(ConfigError, match="there is no qemu-nowhere; install QEMU .Debian and Ubuntu: qemu-system-x86"):
        find_binary("qemu-nowhere")


@pytest.mark.parametrize(
    ("wanted", "kind", "is_usable", "can_run", "accel"),
    [
        ("auto", "qemu", True, True, "tcg"), ("auto", "kvm", True, True, "kvm"), ("auto", "kvm", False, True, "tcg"),
        ("kvm", "kvm", False, True, "kvm"), ("kvm", "kvm", False, False, "tcg"), ("dbt", "kvm", True, True, "tcg"),
    ],
)  # fmt: skip
def test_what_runs_the_guest(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, wanted: str, kind: str, is_usable: bool, can_run: bool, accel: str
) -> None:
    class Verdict:
        state = type("State", (), {"value": "slow"})
        reason = "it is emulated"

    Verdict.is_usable, Verdict.can_run = is_usable, can_run  # type: ignore[attr-defined]
    monkeypatch.setattr("manor.accel.kvm.probe.probe", Verdict)
    document = domain_xml.parse(TEXT.replace("ON", "").replace("type='qemu'", f"type='{kind}'"))
    made = QemuHypervisor(tmp_path, wanted)
    assert asyncio.run(made._choose_accel(document)) == accel


def test_a_display_with_a_port_of_its_own_stays_there() -> None:
    text = TEXT.replace("ON", "").replace("port='-1'", "port='5901'")
    live = live_document(domain_xml.parse(text), 1, Files(Path("/run/vm")))
    assert live.devices.extras[0].node.get("port") == "5901"
    assert live.devices.extras[0].node.get("socket") is None


