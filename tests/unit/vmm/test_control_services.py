"""Pausing, memory and the agent over the control socket."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from manor.base.errors import ManorError
from manor.instances.client import ControlClient
from manor.spec.machine import MachineSpec
from manor.testing import guest_programs
from manor.testing.fake_accel import FakeAccel
from manor.testing.kernel import kernel_file
from manor.vmm.control import ControlServer, listen
from manor.vmm.control_commands import VmControl
from manor.vmm.vm import Vm

MEMORY = 64 << 20


@pytest.fixture
def client(tmp_path: Path) -> Iterator[ControlClient]:
    vm = Vm(MachineSpec(kernel_file(tmp_path), memory=MEMORY, agent=True), FakeAccel(guest_programs.echo))
    control = VmControl(vm, "a fake")
    vm.prepare()
    server = ControlServer(vm.loop, listen(tmp_path / "c"), "web", control.commands())
    control.connect(server)
    server.start()
    vm.start()
    with ControlClient(tmp_path / "c") as client:
        yield client
    vm.power_off()
    vm.wait(10)
    server.close()


def test_pause_and_resume(client: ControlClient) -> None:
    assert client.call("pause") == {}
    assert client.call("status")["state"] == "paused"
    with pytest.raises(ManorError, match="pause is not allowed in state paused"):
        client.call("pause")
    assert client.call("resume") == {}
    assert client.call("status")["state"] == "running"


def test_reset_is_told_to_who_asked(client: ControlClient) -> None:
    client.call("subscribe", topic="life")
    assert client.call("reset") == {}
    assert client.next_event(10) == {"event": "reboot"}
    assert client.call("status")["crashed"] is False


def test_power_button(client: ControlClient) -> None:
    assert client.call("power-button") == {}
    assert client.call("power-button", reboot=True) == {}
    with pytest.raises(ManorError, match="reboot"):
        client.call("power-button", reboot="yes")


def test_memory(client: ControlClient) -> None:
    assert client.call("balloon") == {"target": MEMORY, "actual": MEMORY, "statistics": None}
    assert client.call("balloon", target=MEMORY // 2)["target"] == MEMORY // 2
    with pytest.raises(ManorError, match="at most"):
        client.call("balloon", target=2 * MEMORY)


def test_agent_that_is_not_there(client: ControlClient) -> None:
    assert client.call("status")["agent"] is False
    with pytest.raises(ManorError, match="no agent in the guest has opened the port"):
        client.call("agent", execute="guest-ping")
    with pytest.raises(ManorError, match="at most 3600"):
        client.call("agent", execute="guest-ping", seconds=0)
