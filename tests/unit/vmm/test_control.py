"""The control socket: conversations with a real VM object whose guest is a Python program."""

from __future__ import annotations

import json
import os
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from manor.base.errors import ConfigError, InternalError, ManorError, ProtocolError
from manor.instances.client import ControlClient, VmGone, VmSilent
from manor.spec.control import Json, decode_bytes, encode, encode_bytes
from manor.spec.machine import MachineSpec
from manor.testing import guest_programs
from manor.testing.fake_accel import FakeAccel
from manor.testing.kernel import kernel_file
from manor.vmm import control as control_module
from manor.vmm.control import MAX_CLIENTS, Client, Command, ControlServer, Reply, listen
from manor.vmm.control_commands import VmControl
from manor.vmm.vm import Vm

GUEST = guest_programs.echo


class Running:
    """A VM with its control socket."""

    def __init__(self, path: Path, kernel: Path) -> None:
        spec = MachineSpec(kernel, memory=64 << 20, name="web")
        self.path = path / "web.control"
        self.vm = Vm(spec, FakeAccel(GUEST))
        self.control = VmControl(self.vm, "a fake")
        self.commands: dict[str, Command] = dict(self.control.commands())
        self.vm.prepare()
        self.server = ControlServer(self.vm.loop, listen(self.path), "web", self.commands)
        self.control.connect(self.server)
        self.server.start()
        self.vm.start()

    def raw(self) -> socket.socket:
        """A connection without a client library, past the greeting."""
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(10)
        connection.connect(str(self.path))
        greeting = json.loads(connection.makefile("rb").readline())
        assert greeting["manor"] == 1
        return connection

    def close(self) -> None:
        self.vm.power_off()
        self.vm.wait(10)
        self.server.close()


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    vm = Running(tmp_path, kernel_file(tmp_path))
    yield vm
    vm.close()


def until(condition: Callable[[], bool]) -> None:
    limit = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < limit, "it did not happen"
        time.sleep(0.005)


def test_socket_is_the_owners_alone(running: Running) -> None:
    assert running.path.stat().st_mode & 0o777 == 0o600


def test_status_of_a_vm(running: Running) -> None:
    with ControlClient(running.path) as client:
        assert client.greeting == {"manor": 1, "name": "web", "pid": os.getpid()}
        status = client.call("status")
    assert {name: status[name] for name in ("name", "state", "cpus", "memory", "accelerator")} == {
        "name": "web", "state": "running", "cpus": 1, "memory": 64 << 20, "accelerator": "a fake",
    }  # fmt: skip
    assert status["stage"]["name"] == "start"
    assert status["addresses"] == []


def test_statistics_are_those_of_the_vm(running: Running) -> None:
    with ControlClient(running.path) as client:
        assert client.call("statistics").keys() == running.vm.statistics().as_dict().keys()


def test_console_has_history_then_events(running: Running) -> None:
    running.vm.serial.send("first\n")
    running.vm.serial.wait_for("first", 10)
    with ControlClient(running.path) as client:
        until(lambda: b"first" in decode_bytes(client.call("console", console="serial", history=4096)["data"]))
        assert client.call("input", console="serial", data=encode_bytes(b"second\n")) == {}
        seen = b""
        while b"second" not in seen:
            event = client.next_event(10)
            assert event is not None
            seen += decode_bytes(event["data"])
        assert b"first" not in seen


def test_end_of_the_vm_ends_the_conversation(running: Running) -> None:
    with ControlClient(running.path) as client:
        client.call("stop")
        running.vm.wait(10)
        running.server.close()
        with pytest.raises(VmGone):
            client.call("status")
    assert str(running.vm.end) == "stopped: by a command"


@pytest.mark.parametrize(
    ("command", "arguments", "message"),
    [
        ("fly", {}, "'fly' is unknown; there are agent"),
        ("input", {}, "data: input needs it"),
        ("input", {"data": "*"}, "data: it is not base64"),
        ("input", {"data": "", "console": "vga"}, "'vga' is unknown; there are serial, virtio"),
        ("console", {"history": -1}, "-1 is not a number of bytes"),
        ("console", {"history": 1 << 40}, "is not a number of bytes"),
        ("status", {"verbose": True}, "status has no such argument"),
        ("window", {"columns": 0, "rows": 1}, "0 by 1 is not a window"),
        ("subscribe", {"topic": "weather"}, "'weather' is unknown; there are stage"),
        ("trace", {"on": ["nothing_*"]}, "no event's name matches 'nothing_*'"),
        ("trace", {"on": [7]}, "7 is no pattern"),
        ("port-add", {"port": "0:22"}, "no user-mode interface"),
        ("port-add", {"port": "x"}, "port: "),
        ("link", {"nic": 3, "up": True}, "there is no interface 3"),
        ("resize-disk", {"disk": "vda", "size": 512}, "'vda' is no disk of this machine"),
    ],
)
def test_mistake_is_answered_and_the_conversation_goes_on(
    running: Running, command: str, arguments: dict[str, Any], message: str
) -> None:
    with ControlClient(running.path) as client:
        with pytest.raises(ConfigError) as caught:
            client.call(command, **arguments)
        assert message in str(caught.value)
        assert client.call("status")["name"] == "web"


def test_many_requests_at_once_are_all_answered(running: Running) -> None:
    with running.raw() as connection:
        connection.sendall(b"".join(encode({"id": number, "command": "status"}) for number in range(2000)))
        answers = connection.makefile("rb")
        assert [json.loads(answers.readline())["id"] for _ in range(2000)] == list(range(2000))


@pytest.mark.parametrize("line", [b"garbage\n", b"[1]\n", b'{"command":"status"}\n', b"x" * (1 << 19)])
def test_broken_line_is_answered_and_ends_only_its_conversation(running: Running, line: bytes) -> None:
    with running.raw() as connection:
        with suppress(BrokenPipeError):  # the server does not wait for the end of what is too long
            connection.sendall(line)
        stream = connection.makefile("rb")
        assert json.loads(stream.readline())["error"]["kind"] == "protocol"
        # What the server did not read makes the kernel say "reset" instead of "end".
        with suppress(ConnectionResetError):
            assert stream.readline() == b""
    with ControlClient(running.path) as client:
        assert client.call("status")["name"] == "web"


def test_server_survives_any_bytes(running: Running) -> None:
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    words = [
        b'{"id":1,"command":"',
        b"status",
        b'"',
        b"}",
        b"\n",
        b'"arguments":{',
        b"[",
        b"null",
        b",",
        b"\0",
        b"\xff",
    ]
    for _ in range(150):
        with running.raw() as connection:
            connection.sendall(b"".join(rng.choice(words) for _ in range(rng.randrange(40))))
    with ControlClient(running.path) as client:
        assert client.call("status")["state"] == "running"


def test_client_over_the_limit_waits_for_another_to_leave(running: Running) -> None:
    clients = [ControlClient(running.path) for _ in range(MAX_CLIENTS)]
    with pytest.raises(VmSilent):
        ControlClient(running.path, timeout=0.2)
    clients.pop().close()
    with ControlClient(running.path) as client:
        assert client.call("status")["name"] == "web"
    for client in clients:
        client.close()


def test_client_that_does_not_read_loses_events_and_is_told(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control_module, "MAX_PENDING", 1 << 16)
    with running.raw() as connection:
        connection.sendall(encode({"id": 1, "command": "subscribe", "arguments": {"topic": "stage"}}))
        stream = connection.makefile("rb")
        assert json.loads(stream.readline())["id"] == 1
        done = threading.Event()

        def flood() -> None:
            for _ in range(500):
                running.server.publish("stage", {"event": "stage", "text": "x" * 4096})
            done.set()

        running.vm.loop.call_soon_threadsafe(flood)
        assert done.wait(10)
        got = 0
        while True:
            event = json.loads(stream.readline())
            if event["event"] == "missed":
                break
            got += 1
            running.vm.loop.call_soon_threadsafe(lambda: running.server.publish("stage", {"event": "stage"}))
        assert event["count"] > 0
        assert got < 500


def test_trace_events_come_to_who_subscribed(running: Running) -> None:
    with ControlClient(running.path) as client:
        client.call("subscribe", topic="trace")
        assert client.call("trace", on=["exit_*"])["on"] == ["exit_*"]
        running.vm.serial.send("x\n")
        event = client.next_event(10)
        assert event is not None
        assert event["events"][0]["name"].startswith("exit_")
        assert client.call("trace", off=["exit_*"])["on"] == []


def test_bug_in_a_command_is_that_requests_error_alone(running: Running) -> None:
    def broken(client: Client, arguments: Json, reply: Reply) -> Json:
        raise KeyError("oops")

    running.commands["broken"] = Command(broken)
    running.commands["slow-broken"] = Command(broken, is_slow=True)
    with ControlClient(running.path) as client:
        for command in ("broken", "slow-broken"):
            with pytest.raises(InternalError, match="KeyError"):
                client.call(command)
        assert client.call("status")["name"] == "web"


def test_slow_command_does_not_hold_up_the_others(running: Running) -> None:
    release = threading.Event()

    def slow(client: Client, arguments: Json, reply: Reply) -> Json:
        assert release.wait(10)
        return {"slow": True}

    running.commands["slow"] = Command(slow, is_slow=True)
    with ControlClient(running.path) as client:
        number = client.begin("slow")
        assert client.call("status")["name"] == "web"
        release.set()
        assert client.next_event(10) == {"id": number, "result": {"slow": True}}


def test_input_that_the_guest_does_not_read_is_answered_late(running: Running) -> None:
    with ControlClient(running.path) as client:
        # The virtio console has no driver in this guest: nothing is ever read there.
        first = client.begin("input", console="virtio", data=encode_bytes(b"x" * 40_000))
        second = client.begin("input", console="virtio", data=encode_bytes(b"x" * 40_000))
        assert client.next_event(10) == {"id": first, "result": {}}
        assert client.call("status")["name"] == "web"
        assert client.next_event(0.05) is None
        assert second > first


class FakeServer:
    """Answers one connection with given bytes."""

    def __init__(self, path: Path, answer: bytes) -> None:
        self._listener = listen(path)
        self._listener.setblocking(True)
        self._answer = answer
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        connection, _ = self._listener.accept()
        with connection:
            connection.sendall(self._answer)
        self._listener.close()


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"", VmGone),
        (b"HTTP/1.1 200 OK\r\n", ProtocolError),
        (b'{"manor":2,"pid":1}\n', ProtocolError),
        (b"[]\n", ProtocolError),
        (b'{"error":{"kind":"host","message":"full"}}\n', ManorError),
    ],
)
def test_client_refuses_what_is_no_vmm(tmp_path: Path, answer: bytes, error: type[ManorError]) -> None:
    FakeServer(tmp_path / "s", answer)
    with pytest.raises(error):
        ControlClient(tmp_path / "s", timeout=5)


def test_nobody_there_names_the_socket(tmp_path: Path) -> None:
    with pytest.raises(VmGone, match="nobody answers at the control socket"):
        ControlClient(tmp_path / "none")


def test_path_longer_than_an_address_works(tmp_path: Path) -> None:
    folder = tmp_path / ("d" * 120)
    folder.mkdir()
    FakeServer(folder / "s", b'{"manor":1,"name":"x","pid":1}\n')
    with ControlClient(folder / "s") as client:
        assert client.greeting["pid"] == 1
