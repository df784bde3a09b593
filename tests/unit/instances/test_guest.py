"""What is asked of a guest: which way is taken, and what the agent is asked for."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from manor.backends.agent.client import AgentError
from manor.base.errors import ConfigError, HostError
from manor.images.seed import SeedSpec
from manor.images.store import Store
from manor.instances import reach
from manor.instances.config import new_config
from manor.instances.create import create
from manor.instances.guest import MAX_INPUT, ask_to_power_off, copy_by_agent, run_by_agent
from manor.instances.instance import Instance, Instances
from manor.instances.reach import find_way
from manor.spec.control import Json, check_arguments
from manor.testing.fake_vmm import Answer, FakeVmm
from manor.vmm.control_services import ServiceControl
from manor.vmm.vm import Vm

Start = Callable[..., FakeVmm]


class FakeAgent:
    """A guest's agent with one program, `cat`, and files in memory."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {"/etc/hostname": b"web\n"}
        self.asked: list[str] = []
        self._open: tuple[str, int] = ("", 0)
        self._ended: Json = {}

    def __call__(self, arguments: Json) -> Json:
        self.asked.append(arguments["execute"])
        handler = getattr(self, arguments["execute"].replace("guest-", "").replace("-", "_"))
        return {"value": handler(arguments["arguments"])}

    def ping(self, arguments: Json) -> Json:
        return {}

    def exec(self, arguments: Json) -> Json:
        if arguments["path"] != "cat":
            raise AgentError(f"there is no {arguments['path']}")
        self._ended = {
            "exited": True, "exitcode": len(arguments["arg"]), "out-data": arguments.get("input-data", ""),
            "err-data": base64.b64encode(b"moo").decode(),
        }  # fmt: skip
        return {"pid": 7}

    def exec_status(self, arguments: Json) -> Json:
        return self._ended

    def file_open(self, arguments: Json) -> int:
        path = arguments["path"]
        if arguments["mode"] == "r" and path not in self.files:
            raise AgentError(f"{path}: no such file")
        if arguments["mode"] == "w":
            self.files[path] = b""
        self._open = (path, 0)
        return 3

    def file_write(self, arguments: Json) -> Json:
        data = base64.b64decode(arguments["buf-b64"])
        self.files[self._open[0]] += data
        return {"count": len(data)}

    def file_read(self, arguments: Json) -> Json:
        path, position = self._open
        data = self.files[path][position : position + arguments["count"]]
        self._open = (path, position + len(data))
        return {"count": len(data), "buf-b64": base64.b64encode(data).decode(), "eof": not data}

    def file_flush(self, arguments: Json) -> Json:
        return {}

    def file_close(self, arguments: Json) -> Json:
        return {}

    def shutdown(self, arguments: Json) -> Json:
        raise HostError("the guest's agent did not answer")  # it is busy shutting down


@pytest.fixture
def vm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Instance:
    for variable in ("XDG_DATA_HOME", "XDG_STATE_HOME", "XDG_RUNTIME_DIR"):
        monkeypatch.setenv(variable, str(tmp_path / variable))
        (tmp_path / variable).mkdir(mode=0o700)
    return create(Instances(), Store(), new_config("web"), None, None, SeedSpec("i", "web"))


@pytest.fixture
def agent() -> FakeAgent:
    return FakeAgent()


@pytest.fixture
def start(vm: Instance, agent: FakeAgent) -> Iterator[Start]:
    """start(has_agent=..., stage=...): the VM runs."""
    running: list[FakeVmm] = []

    def run(has_agent: bool = True, stage: str = "login", **more: Answer) -> FakeVmm:
        answers: dict[str, Answer] = {
            "status": {"agent": has_agent, "stage": {"name": stage}}, "agent": agent, "nics": {"nics": []},
            "port-add": _no_nic, **more,
        }  # fmt: skip
        running.append(FakeVmm(vm.control, answers))
        return running[-1]

    yield run
    for vmm in running:
        vmm.close()


def _no_nic(arguments: Json) -> Json:
    raise ConfigError("port", "the VM has no user-mode interface")


def test_program_by_the_agent(vm: Instance, start: Start, capfdbinary: Any) -> None:
    start()
    assert run_by_agent(vm, ("cat", "-", "-"), b"data\0") == 2
    assert capfdbinary.readouterr() == (b"data\0", b"moo")


def test_what_the_agent_refuses_is_told(vm: Instance, start: Start) -> None:
    start()
    with pytest.raises(AgentError, match="there is no dog"):
        run_by_agent(vm, ("dog",), None)
    with pytest.raises(ConfigError, match="use ssh"):
        run_by_agent(vm, ("cat",), bytes(MAX_INPUT + 1))


def test_as_much_input_as_is_taken_fits_into_a_request(vm: Instance, start: Start, capfdbinary: Any) -> None:
    start()
    assert run_by_agent(vm, ("cat",), b"x" * MAX_INPUT) == 0
    assert capfdbinary.readouterr().out == b"x" * MAX_INPUT


def test_files_by_the_agent(vm: Instance, start: Start, agent: FakeAgent, tmp_path: Path) -> None:
    start()
    data = bytes(range(256)) * 1000
    (tmp_path / "a").write_bytes(data)
    (tmp_path / "b").write_bytes(b"")
    copy_by_agent(vm, [str(tmp_path / "a")], ":/tmp/new")
    copy_by_agent(vm, [str(tmp_path / "a"), str(tmp_path / "b")], ":/srv/")
    assert {path: agent.files[path] for path in ("/tmp/new", "/srv/a", "/srv/b")} == {
        "/tmp/new": data, "/srv/a": data, "/srv/b": b"",
    }  # fmt: skip
    (tmp_path / "out").mkdir()
    copy_by_agent(vm, [":/tmp/new", ":/etc/hostname"], str(tmp_path / "out"))
    copy_by_agent(vm, [":/etc/hostname"], str(tmp_path / "named"))
    assert (tmp_path / "out" / "new").read_bytes() == data
    assert (tmp_path / "named").read_text() == "web\n"


@pytest.mark.parametrize(
    ("sources", "target", "message"),
    [
        (["{}"], ":/x", "only single files"), (["/nonexistent"], ":/x", "No such file"),
        (["/etc/hostname"], ":x", "the agent has no home"), (["a", "b"], ":/x", "end its name with a slash"),
        ([":/none"], "x", "/none cannot be had"), ([":/a", ":/b"], "/nonexistent", "is none"),
    ],
)  # fmt: skip
def test_copies_that_cannot_be_made(
    vm: Instance, start: Start, tmp_path: Path, sources: list[str], target: str, message: str
) -> None:
    start()
    with pytest.raises((ConfigError, HostError), match=message):
        copy_by_agent(vm, [source.format(tmp_path) for source in sources], target)


def test_vmm_takes_what_is_asked_of_the_agent(vm: Instance, start: Start) -> None:
    vmm = start()
    run_by_agent(vm, ("cat",), b"x")
    known = ServiceControl(cast(Vm, None)).commands()["agent"]
    requests = [arguments for command, arguments in vmm.asked if command == "agent"]
    assert requests
    for arguments in requests:
        check_arguments("agent", arguments, known.needed, known.optional)


def test_shut_down_by_the_agent(vm: Instance, start: Start, agent: FakeAgent) -> None:
    start()
    ask_to_power_off(vm)
    assert agent.asked == ["guest-ping", "guest-shutdown"]


def test_shut_down_without_a_way_says_why(vm: Instance, start: Start) -> None:
    start(has_agent=False)
    with pytest.raises(ConfigError, match="no user-mode interface"):
        ask_to_power_off(vm)


# --- which way --------------------------------------------------------------------------------------------------------


def test_ssh_goes_first_where_it_answers(vm: Instance, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    start(**{"port-add": {"protocol": "tcp", "host_address": "", "host_port": 1, "guest_port": 22}})
    monkeypatch.setattr(reach, "greets", lambda way: True)
    way = find_way(vm, "auto", None, 5, may_type=True)
    assert (way.via, way.access.port if way.access else 0) == ("ssh", 1)


def test_agent_goes_before_the_console(vm: Instance, start: Start) -> None:
    start()
    assert find_way(vm, "auto", None, 5, may_type=True).via == "agent"


def test_console_is_the_last_way_and_only_at_the_login(vm: Instance, start: Start) -> None:
    vmm = start(has_agent=False)
    assert find_way(vm, "auto", None, 5, may_type=True).via == "serial"
    with pytest.raises(HostError, match="neither an ssh server nor an agent answers"):
        find_way(vm, "auto", None, 0.1, may_type=False)
    vmm.close()
    start(has_agent=False, stage="kernel")
    with pytest.raises(HostError, match="neither"):
        find_way(vm, "auto", None, 0.1, may_type=True)


def test_way_that_was_asked_for_is_waited_for(vm: Instance, start: Start) -> None:
    start(has_agent=False)
    assert find_way(vm, "serial", None, 0, may_type=True).via == "serial"
    with pytest.raises(HostError, match="install qemu-guest-agent"):
        find_way(vm, "agent", None, 0.1, may_type=True)
    with pytest.raises(ConfigError, match="no user-mode interface"):
        find_way(vm, "ssh", None, 0.1, may_type=True)
