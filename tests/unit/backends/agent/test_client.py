"""The client with an agent that lies, is silent, or goes away."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from manor.agent.guest import Commands, Session
from manor.backends.agent.client import AgentClient, AgentError, AgentNotThere
from manor.base.errors import HostError, ProtocolError


class Scripted:
    """A transport with our agent's session behind it, whose commands a test replaces."""

    def __init__(self, **answers: object) -> None:
        self.answers = {name.replace("_", "-"): value for name, value in answers.items()}
        self.asked: list[tuple[str, dict[str, object]]] = []
        self.is_silent = False
        self.is_gone = False
        self._waiting = bytearray()

    def send(self, data: bytes) -> None:
        if self.is_gone:
            raise AgentNotThere("gone")
        if self.is_silent:
            return
        for line in data.lstrip(b"\xff").splitlines():
            request = json.loads(line)
            command, arguments = request["execute"], request.get("arguments", {})
            if command == "guest-sync-delimited":
                self._waiting += b'\xff{"return": %d}\n' % arguments["id"]
                continue
            self.asked.append((command, arguments))
            answer = self.answers.get(command, {})
            answer = answer(**arguments) if callable(answer) else answer
            if answer is not None:
                self._waiting += json.dumps({"return": answer}).encode() + b"\n"

    def receive(self, timeout: float) -> bytes:
        data = bytes(self._waiting[:7])  # in small pieces
        del self._waiting[:7]
        return data


def test_silent_guest_is_not_waited_for_without_end() -> None:
    line = Scripted()
    client = AgentClient(line)
    line.is_silent = True
    with pytest.raises(AgentNotThere, match="is qemu-guest-agent installed"):
        client.ping(timeout=0.02)
    line.is_silent = False
    client.ping()
    line.answers["guest-get-time"] = None
    with pytest.raises(AgentNotThere, match="did not answer guest-get-time"):
        client.call("guest-get-time", timeout=0.02)
    line._waiting += b'{"return": "late"}\n'
    line.answers["guest-get-time"] = 5
    assert client.get_time() == 5  # not the late one


def test_guest_that_is_gone() -> None:
    line = Scripted()
    line.is_gone = True
    with pytest.raises(HostError, match="gone"):
        AgentClient(line).ping()


@pytest.mark.parametrize(
    ("call", "answers"),
    [
        (lambda c: c.exec(["x"]), {"guest_exec": []}),
        (lambda c: c.exec(["x"]), {"guest_exec": {"pid": "1"}}),
        (lambda c: c.exec(["x"]), {"guest_exec": {"pid": 1}, "guest_exec_status": {"exited": 1}}),
        (
            lambda c: c.exec(["x"]),
            {"guest_exec": {"pid": 1}, "guest_exec_status": {"exited": True, "out-data": "no base64"}},
        ),
        (lambda c: c.read_file("/x"), {"guest_file_open": "7"}),
        (lambda c: c.read_file("/x"), {"guest_file_open": 7, "guest_file_read": {"buf-b64": 1}}),
        (lambda c: c.interfaces(), {"guest_network_get_interfaces": {}}),
        (lambda c: c.interfaces(), {"guest_network_get_interfaces": [{"name": "e", "ip-addresses": [{}]}]}),
        (lambda c: c.get_time(), {"guest_get_time": True}),
        (lambda c: c.os_info(), {"guest_get_osinfo": "Linux"}),
        (lambda c: c.info(), {"guest_info": {"supported_commands": [1]}}),
    ],
)
def test_answers_of_the_wrong_form(call: Callable[[AgentClient], object], answers: dict[str, object]) -> None:
    with pytest.raises(ProtocolError):
        call(AgentClient(Scripted(**answers)))


def test_write_that_makes_no_progress_ends() -> None:
    line = Scripted(guest_file_open=3, guest_file_write={"count": 0})
    with pytest.raises(AgentError, match="wrote 0 bytes"):
        AgentClient(line).write_file("/x", b"data")
    assert line.asked[-1] == ("guest-file-close", {"handle": 3})


def test_time_frozen_file_systems_and_the_end() -> None:
    line = Scripted(
        guest_fsfreeze_freeze=2, guest_fsfreeze_thaw=2, guest_fsfreeze_status="frozen", guest_shutdown=None
    )
    client = AgentClient(line)
    client.set_time(17)
    assert client.freeze() == 2
    assert client.is_frozen()
    assert client.thaw() == 2
    client.shutdown()
    assert line.asked[0] == ("guest-set-time", {"time": 17})
    assert line.asked[-1] == ("guest-shutdown", {"mode": "powerdown"})


def test_own_session_refuses_what_it_does_not_know() -> None:
    session = Session(Commands())
    for line, text in (
        (b"nonsense\n", "JSON parse error"),
        (b"[]\n", "execute"),
        (b'{"execute": "run"}\n', "has not been found"),
        (b'{"execute": "guest-ping", "arguments": {"a": 1}}\n', "Invalid parameters"),
        (b'{"execute": "guest-ping", "arguments": 1}\n', "arguments are an object"),
        (b'{"execute": "guest-file-read", "arguments": {"handle": 1}}\n', "handle 1"),
        (b'{"execute": "guest-exec-status", "arguments": {"pid": 1}}\n', "no program 1"),
        (b'{"execute": "guest-file-open", "arguments": {"path": "/x", "mode": "rx"}}\n', "file mode"),
        (b'{"execute": "guest-exec", "arguments": {"path": "/bin/true", "input-data": "?"}}\n', "Invalid parameters"),
        (b'{"execute": "guest-exec", "arguments": {"path": "/nonexistent"}}\n', "No such file"),
    ):
        [answer] = session.feed(line)
        assert text in json.loads(answer)["error"]["desc"]
    assert session.feed(b'half\xff{"execute": "guest-ping", "id": 4}\n') == [b'{"id": 4, "return": {}}\n']


def test_own_agent_only_thaws_while_frozen() -> None:
    commands = Commands()
    commands._frozen = [-1]
    session = Session(commands)
    [answer] = session.feed(b'{"execute": "guest-file-open", "arguments": {"path": "/dev/null"}}\n')
    assert "frozen" in json.loads(answer)["error"]["desc"]
    assert session.feed(b'{"execute": "guest-fsfreeze-status"}\n') == [b'{"return": "frozen"}\n']
