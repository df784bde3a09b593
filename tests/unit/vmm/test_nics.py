"""The network interfaces of a VM in its process, with a Python guest in place of an engine."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from manor.base.errors import ConfigError, HostError
from manor.base.exits import Exit, Halt
from manor.base.units import MiB
from manor.devices.misc.power import RESET_VALUE
from manor.mem import layout
from manor.spec.mac import derive_mac
from manor.spec.machine import MachineSpec
from manor.spec.net import NicSpec, PortForward
from manor.testing.fake_accel import FakeAccel, FakeVcpu, Program
from manor.testing.guest_programs import echo
from manor.testing.kernel import kernel_file
from manor.vmm.lifecycle import Reason
from manor.vmm.vm import Vm

CLOSED = NicSpec(reach="none")
Guest = Generator[Exit, None, None]


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Vm]:
    def make(*nics: NicSpec, program: Program = echo, name: str = "") -> Vm:
        spec = MachineSpec(kernel_file(tmp_path), memory=64 * MiB, nics=nics, name=name)
        return Vm(spec, FakeAccel(program))

    return make


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_interfaces_are_there_and_go_away(make: Callable[..., Vm]) -> None:
    vm = make(CLOSED, NicSpec("none", mac="52:54:00:12:34:56"), name="web")
    assert list(vm.nics) == []
    before = descriptors()
    with vm:
        vm.start()
        vm.serial.wait_for("ready", 5)
        assert [nic.spec.kind for nic in vm.nics] == ["user", "none"]
        assert vm.nics[1].mac_text == "52:54:00:12:34:56"
        assert vm.nics[0].mac == derive_mac("web", 0)
        assert [nic.is_link_up for nic in vm.nics] == [True, False]
        assert vm.nics[0].addresses() == []
        assert vm.nics[0].statistics()["sent_frames"] == 0
        vm.nics[0].set_link(False)
        assert not vm.nics[0].is_link_up
    assert vm.statistics().nics["net0"]["sent_frames"] == 0
    assert descriptors() <= before


def test_ports_are_forwarded_and_not_any_more(make: Callable[..., Vm]) -> None:
    with make(CLOSED, NicSpec("none")) as vm:
        vm.start()
        forwards = vm.nics[0].forwards
        made = forwards.add("0:80")
        assert made.host_port > 0
        assert forwards.list() == (made,)
        with socket.create_connection(("127.0.0.1", made.host_port), 5):
            forwards.remove(made)
        assert forwards.list() == ()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", made.host_port), 5)
        with pytest.raises(HostError, match="is not forwarded"):
            forwards.remove(made)
        with pytest.raises(ConfigError, match="not HOST:GUEST"):
            forwards.add("80")
        with pytest.raises(ConfigError, match="0 is not a port of the guest"):
            forwards.add(PortForward("tcp", 0, 0))
        assert vm.nics[1].forwards.list() == ()
        with pytest.raises(ConfigError, match="only user-mode interfaces forward ports; this one is none"):
            vm.nics[1].forwards.add("0:80")


def test_what_cannot_be_opened_leaves_nothing_open(make: Callable[..., Vm], tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        before = descriptors()
        vm = make(CLOSED, NicSpec(reach="none", forwards=(PortForward("tcp", port, 80),)))
        with pytest.raises((ConfigError, HostError), match=str(port)):
            vm.prepare()
        assert vm.end is not None
        assert vm.end.reason is Reason.ERROR
        assert descriptors() <= before
    with pytest.raises(ConfigError, match="cannot be written"):
        make(NicSpec("none", capture=tmp_path / "no" / "x")).prepare()


def test_a_prepared_vm_that_never_ran_closes_its_networks(make: Callable[..., Vm]) -> None:
    before = descriptors()
    with make(NicSpec(reach="none", forwards=(PortForward("tcp", 0, 80),))) as vm:
        vm.prepare()
        port = vm.nics[0].forwards.list()[0].host_port
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), 5)
    assert descriptors() <= before + 4  # the loop's own, which live as long as the object


def test_networks_outlive_a_reboot(make: Callable[..., Vm]) -> None:
    boots: list[int] = []

    def program(cpu: FakeVcpu) -> Guest:
        boots.append(1)
        if len(boots) == 1:
            cpu.out(layout.ACPI_RESET, RESET_VALUE)
        else:
            for byte in b"up\n":
                cpu.out(layout.COM1, byte)
        while True:
            yield Halt()

    with make(NicSpec(reach="none", forwards=(PortForward("tcp", 0, 80),)), program=program) as vm:
        vm.start()
        first = vm.nics[0].backend
        vm.serial.wait_for("up", 10)
        assert len(boots) == 2
        assert vm.nics[0].backend is first
        socket.create_connection(("127.0.0.1", vm.nics[0].forwards.list()[0].host_port), 5).close()


def test_capture_on_and_off(make: Callable[..., Vm], tmp_path: Path) -> None:
    with make(NicSpec("none")) as vm:
        vm.start()
        vm.nics[0].start_capture(tmp_path / "x.pcapng")
        assert vm.nics[0].statistics()["captured_frames"] == 0
        vm.nics[0].stop_capture()
        assert (tmp_path / "x.pcapng").stat().st_size > 0
        (tmp_path / "text").write_text("text")
        with pytest.raises(ConfigError, match="not a pcapng file"):
            vm.nics[0].start_capture(tmp_path / "text")
