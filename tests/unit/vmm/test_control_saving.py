"""Saving over the control socket: progress, the answer before the end, cancelling."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from manor.base.errors import HostError, StateError
from manor.instances.client import ControlClient
from manor.instances.saving import save
from manor.mem import saved_memory
from manor.spec.control import decode_bytes
from manor.spec.machine import MachineSpec
from manor.testing.fake_accel import FakeAccel
from manor.testing.guest_programs import login
from manor.testing.kernel import kernel_file
from manor.vmm import saving as saving_module
from manor.vmm.control import ControlServer, listen
from manor.vmm.control_commands import VmControl
from manor.vmm.lifecycle import Reason, State
from manor.vmm.saved import SavedVm
from manor.vmm.vm import Vm


class Running:
    def __init__(self, folder: Path, saved: SavedVm | None = None) -> None:
        self.path = folder / "vm.control"
        self.vm = Vm(MachineSpec(kernel_file(folder), memory=64 << 20), FakeAccel(login), saved=saved)
        self.vm.prepare()
        self.control = VmControl(self.vm, "a fake")
        self.server = ControlServer(self.vm.loop, listen(self.path), "vm", self.control.commands())
        self.control.connect(self.server)
        self.server.start()
        self.vm.start()

    def close(self) -> None:
        self.vm.power_off()
        self.vm.wait(10)
        self.server.close()


Start = Callable[..., Running]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    made: list[Running] = []

    def begin(saved: SavedVm | None = None) -> Running:
        made.append(Running(tmp_path, saved))
        if saved is None:
            made[-1].vm.serial.wait_for("login: ", 5)
        return made[-1]

    yield begin
    for one in made:
        one.close()


def test_save_and_what_the_socket_knows_afterwards(start: Start, tmp_path: Path) -> None:
    running = start()
    progress: list[tuple[int, int]] = []
    path = tmp_path / "state"
    save(running.path, path, lambda done, total: progress.append((done, total)))
    assert running.vm.wait(5).reason is Reason.SAVED
    assert progress[-1][0] <= progress[-1][1]
    again = start(SavedVm(path))
    with ControlClient(again.path) as client:
        # The guest prints no second "login:", but it is known that it has come so far.
        assert client.call("status")["stage"]["name"] == "login"
        shown = decode_bytes(client.call("console", history=10_000)["data"])
        assert shown.endswith(b"box login: ")
    again.vm.serial.send("hello\n")
    assert again.vm.serial.wait_for("box login: ", 5).count("Linux version") == 1  # the fake guest boots anew


def test_answer_and_note(start: Start, tmp_path: Path) -> None:
    running = start()
    path = tmp_path / "state"
    with ControlClient(running.path) as client:
        answer = client.call("save", path=str(path), note="<domain/>")
        assert answer == {"path": str(path), "size": path.stat().st_size}
        assert running.vm.wait(5).reason is Reason.SAVED
    assert SavedVm(path).head.note == "<domain/>"


def test_cancel(start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    running = start()
    go = threading.Event()
    pieces = saved_memory.pieces

    def slow(*arguments: object) -> Iterator[tuple[int, bytes, int]]:
        for piece in pieces(*arguments):  # type: ignore[arg-type]
            assert go.wait(10)
            yield piece

    monkeypatch.setattr(saving_module, "pieces", slow)
    path = tmp_path / "state"
    with ControlClient(running.path) as client, ControlClient(running.path) as other:
        with pytest.raises(StateError, match="not being saved"):
            other.call("save-cancel")
        number = client.begin("save", path=str(path))
        while running.control._saves._saving is None:
            pass
        with pytest.raises(StateError, match="being saved"):
            other.call("save", path=str(path))
        other.call("save-cancel")
        go.set()
        answer = client.next_event(10)
        assert answer is not None
        assert answer["id"] == number
        assert "cancelled; the VM goes on" in answer["error"]["message"]
        assert other.call("status")["state"] == State.RUNNING.value
    assert not path.exists()


def test_a_folder_that_is_not_there(start: Start, tmp_path: Path) -> None:
    running = start()
    with pytest.raises(HostError, match="cannot write .*No such file"):
        save(running.path, tmp_path / "no" / "state", lambda done, total: None)
    assert running.vm.state is State.RUNNING
