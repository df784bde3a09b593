"""The client with agents that are processes of this machine: ours, and QEMU's as the witness."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from manor.agent import guest as agent_module
from manor.backends.agent.client import AgentClient, AgentError
from manor.backends.agent.transport import SocketTransport

START_S = 20.0
DANGEROUS = "guest-shutdown,guest-set-time,guest-fsfreeze-freeze,guest-suspend-disk,guest-suspend-ram"
"""What no test may ask of an agent that runs on this machine."""


@pytest.fixture(params=["ours", "qemu-ga"])
def agent(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[AgentClient]:
    path = tmp_path / "agent.sock"
    if request.param == "ours":
        argv = [sys.executable, os.fspath(agent_module.__file__), "--unix-listen", os.fspath(path)]
    else:
        program = shutil.which("qemu-ga")
        if program is None:
            pytest.skip("qemu-ga is not installed (Debian package qemu-guest-agent)")
        argv = [
            program, "-m", "unix-listen", "-p", os.fspath(path), "-t", os.fspath(tmp_path),
            "-f", os.fspath(tmp_path / "pid"), "-b", DANGEROUS,
        ]  # fmt: skip
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        sock = connect(path)
        with sock:
            yield AgentClient(SocketTransport(sock))
    finally:
        process.kill()
        process.wait()


def connect(path: Path) -> socket.socket:
    limit = time.monotonic() + START_S
    while True:
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.connect(os.fspath(path))
        except OSError:
            sock.close()
            assert time.monotonic() < limit
            time.sleep(0.02)
        else:
            return sock


def test_conversation(agent: AgentClient, tmp_path: Path) -> None:
    agent.ping()
    assert agent.info()["guest-exec"]
    with pytest.raises(AgentError, match="guest-nonsense"):
        agent.call("guest-nonsense")
    agent.ping()  # a refusal is not the end

    result = agent.exec(["/bin/sh", "-c", "cat; echo error >&2; exit 3"], input=b"in\0put")
    assert (result.status, result.signal, result.stdout, result.stderr) == (3, None, b"in\0put", b"error\n")
    assert not result.is_truncated
    killed = agent.exec(["/bin/sh", "-c", "kill -9 $$"])
    assert killed.signal == signal.SIGKILL
    assert agent.exec(["/usr/bin/env"], env={"A": "1=2"}).stdout == b"A=1=2\n"
    with pytest.raises(AgentError):
        agent.exec(["/nonexistent/program"])
    with pytest.raises(TimeoutError, match="still runs"):
        agent.exec(["/bin/sleep", "1"], timeout=0.02)

    path = tmp_path / "file"
    data = os.urandom(150_000)
    agent.write_file(os.fspath(path), data)
    assert path.read_bytes() == data
    agent.write_file(os.fspath(path), b"more", append=True)
    assert agent.read_file(os.fspath(path)) == data + b"more"
    agent.write_file(os.fspath(path), b"")
    assert agent.read_file(os.fspath(path)) == b""
    with pytest.raises(AgentError):
        agent.read_file(os.fspath(tmp_path / "missing"))
    path.write_bytes(b"12345")
    with pytest.raises(AgentError, match="more than 4 bytes"):
        agent.read_file(os.fspath(path), limit=4)

    assert abs(agent.get_time() - time.time_ns()) < 5e9
    assert agent.os_info()["kernel-release"] == os.uname().release
    names = [interface.name for interface in agent.interfaces()]
    assert set(names) == {name for _, name in socket.if_nameindex()}
    loopback = next(one for one in agent.interfaces() if one.name == "lo")
    assert "127.0.0.1/8" in loopback.addresses
    assert "127.0.0.1" not in agent.addresses()
    assert not agent.is_frozen()


def test_new_session_on_a_line_with_rests(agent: AgentClient) -> None:
    agent._transport.send(b'{"execute": "guest-ping"}\n{"exec')
    agent.forget_session()
    assert agent.exec(["/bin/echo", "here"]).stdout == b"here\n"


def test_agents_have_the_same_interfaces(agent: AgentClient) -> None:
    """Ours does what the protocol's reference lists under these names."""
    ours = set(agent_module.Commands.names())
    assert ours <= set(agent.info())
