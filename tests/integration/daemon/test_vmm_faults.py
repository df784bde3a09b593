"""VMM processes that are killed, stopped, or outlive their daemon. The guest is one that only halts."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from manor.rpc.message import Event
from manor.testing.daemon import DaemonProcess
from manor.testing.kernels import build_idle_kernel
from manor.testing.raw_client import RawClient, raw_client

DOMAIN = """
<domain type='qemu'><name>{name}</name><memory unit='MiB'>32</memory>
<os><type arch='x86_64'>hvm</type><kernel>{kernel}</kernel></os><devices><console type='pty'/></devices></domain>
"""
URI = "manor:///session"


@pytest.fixture(scope="module")
def daemon() -> Iterator[DaemonProcess]:
    with tempfile.TemporaryDirectory(prefix="mgd") as folder:
        root = Path(folder)
        (root / "kernel").write_bytes(build_idle_kernel())
        made = DaemonProcess(root)
        made.start()
        try:
            yield made
        finally:
            for pid in vmm_pids(made).values():
                os.kill(pid, signal.SIGKILL)
            status = made.end()
        assert status == 0
        assert "Traceback" not in made.log


@pytest.fixture
def client(daemon: DaemonProcess) -> Iterator[RawClient]:
    with raw_client(daemon.socket, URI, timeout=40) as made:
        yield made


def wait_for(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.02)


def vmm_pids(daemon: DaemonProcess) -> dict[str, int]:
    """UUID -> process of a VM that lives."""
    found = {}
    for lock in (daemon.root / "state" / "run").glob("*/lock"):
        text = lock.read_text().strip()
        if text and Path(f"/proc/{text}/cmdline").exists() and b"vmm" in Path(f"/proc/{text}/cmdline").read_bytes():
            found[lock.parent.name] = int(text)
    return found


def define(daemon: DaemonProcess, client: RawClient, name: str) -> object:
    domain = client.call("domain_define_xml", DOMAIN.format(name=name, kernel=daemon.root / "kernel"))
    client.call("domain_create", domain)
    return client.call("domain_lookup_by_name", name)


def state(client: RawClient, domain: object) -> tuple[int, int]:
    found = client.call("domain_get_state", domain, 0)
    return found.state, found.reason


def pid_of(daemon: DaemonProcess, domain: object) -> int:
    from uuid import UUID

    return vmm_pids(daemon)[str(UUID(bytes=domain.uuid))]  # type: ignore[attr-defined]


def lifecycle(client: RawClient) -> list[tuple[str, int, int]]:
    """(domain, event, detail) of what has come."""
    return [
        (each.arguments.domain.name, each.arguments.event, each.arguments.detail)
        for each in client.others
        if isinstance(each, Event)
    ]


def test_a_vmm_that_is_killed_is_a_crash_with_an_event(daemon: DaemonProcess, client: RawClient) -> None:
    domain = define(daemon, client, "killed")
    other = define(daemon, client, "other")
    with raw_client(daemon.socket, URI) as listener:
        listener.call("connect_domain_event_callback_register_any", 0, None)
        os.kill(pid_of(daemon, domain), signal.SIGKILL)
        while not lifecycle(listener):
            listener.others += listener.receive()
        assert lifecycle(listener) == [("killed", 5, 2)]  # stopped, crashed
    assert state(client, domain) == (5, 3)  # shut off, crashed
    assert state(client, other)[0] == 1
    assert "killed ended: its process was killed (signal 9)" in daemon.log
    client.call("domain_create", domain)  # it can be started again
    for each in (domain, other):
        client.call("domain_destroy", each)
        client.call("domain_undefine", each)


def test_a_vmm_that_is_stopped_delays_nobody_else(daemon: DaemonProcess, client: RawClient) -> None:
    stuck, other = define(daemon, client, "stuck"), define(daemon, client, "other")
    pid = pid_of(daemon, stuck)
    os.kill(pid, signal.SIGSTOP)
    try:
        with raw_client(daemon.socket, URI) as second:
            waiting = second.send("domain_get_info", stuck)
            begin = time.monotonic()
            assert client.call("domain_get_info", other).state == 1
            assert time.monotonic() - begin < 2
            assert second.wait(waiting).state == 1
        assert time.monotonic() - begin < 10
        begin = time.monotonic()
        found = {each.domain.name: each for each in client.call("connect_get_all_domain_stats", [], 0, 0)}
        assert time.monotonic() - begin < 5  # it has been found out before: it gets little time
        names = {name: {param.field for param in each.params} for name, each in found.items()}
        assert "cpu.time" in names["other"]
        assert "cpu.time" not in names["stuck"]
        assert "state.state" in names["stuck"]
    finally:
        os.kill(pid, signal.SIGCONT)
    wait_for(lambda: "cpu.time" in statistics(client, "stuck"))
    for each in (stuck, other):
        client.call("domain_destroy", each)
        client.call("domain_undefine", each)


def statistics(client: RawClient, name: str) -> set[str]:
    rows = client.call("connect_get_all_domain_stats", [], 0, 0)
    return {param.field for each in rows if each.domain.name == name for param in each.params}


def test_a_vmm_that_is_stopped_can_be_destroyed(daemon: DaemonProcess, client: RawClient) -> None:
    domain = define(daemon, client, "frozen")
    os.kill(pid_of(daemon, domain), signal.SIGSTOP)
    begin = time.monotonic()
    client.call("domain_destroy", domain)
    assert time.monotonic() - begin < 15
    assert state(client, domain) == (5, 2)  # shut off, destroyed
    client.call("domain_undefine", domain)


def test_a_daemon_that_is_killed_finds_its_vms_and_their_ends(daemon: DaemonProcess, client: RawClient) -> None:
    kept, lost = define(daemon, client, "kept"), define(daemon, client, "lost")
    pids = {name: pid_of(daemon, each) for name, each in (("kept", kept), ("lost", lost))}
    daemon.kill()
    os.kill(pids["lost"], signal.SIGKILL)
    wait_for(lambda: not Path(f"/proc/{pids['lost']}").exists() or "Z" in status_of(pids["lost"]))
    daemon.start()
    with raw_client(daemon.socket, URI) as again:
        assert state(again, kept)[0] == 1
        assert state(again, lost) == (5, 3)  # shut off, crashed
        assert pid_of(daemon, kept) == pids["kept"]
        again.call("connect_domain_event_callback_register_any", 0, None)
        again.call("domain_suspend", kept)
        again.call("domain_resume", kept)
        os.kill(pids["kept"], signal.SIGKILL)  # not its child any more, and its end is seen all the same
        while ("kept", 5, 2) not in lifecycle(again):
            again.others += again.receive()
        assert [event for _, event, _ in lifecycle(again)] == [3, 4, 5]
        for each in (kept, lost):
            again.call("domain_undefine", each)


def status_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return "Z"
