"""A real guest and vsock: both directions, unix sockets and the Python API, megabytes through the flow control."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from manor.accel.choose import choose
from manor.base.errors import HostError
from manor.guests.default import DefaultGuest
from manor.guests.init_script import PROMPT
from manor.spec.machine import MachineSpec
from manor.spec.vsock import VsockSpec
from manor.testing.programs import compile_program, extend_initrd, has_compiler
from manor.vmm.vm import Vm
from tests.guest.conftest import BOOT_TIMEOUT_S, STEP_TIMEOUT_S

pytestmark = pytest.mark.timeout(300)

PORT = 5000


@pytest.fixture
def vm(guest: DefaultGuest, manor_only: None, tmp_path: Path) -> Iterator[Vm]:
    if not has_compiler():
        pytest.skip("no gcc for the guest's program")
    program = compile_program(Path(__file__).parent / "services" / "vsock.c", tmp_path).read_bytes()
    initrd = extend_initrd(guest.initrd, {"/bin/vsock": (0o755, program)}, tmp_path / "initrd")
    spec = MachineSpec(guest.kernel, initrd, guest.cmdline, vsock=VsockSpec(tmp_path / "v.sock", cid=33))
    with Vm(spec, choose("dbt").accel, reboot=False) as vm:
        vm.start()
        vm.serial.wait_for(PROMPT, BOOT_TIMEOUT_S)
        yield vm


def converse(sock: socket.socket, data: bytes) -> bytes:
    """Send all while reading; what came back until the end."""

    def send() -> None:
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)

    sock.settimeout(STEP_TIMEOUT_S)
    sender = threading.Thread(target=send)
    sender.start()
    answer = bytearray()
    while piece := sock.recv(1 << 16):
        answer += piece
    sender.join()
    return bytes(answer)


def test_streams(vm: Vm, tmp_path: Path) -> None:
    with pytest.raises(HostError, match="nobody in the guest"):
        vm.vsock.connect(PORT)
    vm.serial.send(f"vsock echo {PORT} &\n")
    vm.serial.wait_for("listening", STEP_TIMEOUT_S)
    data = os.urandom(3 << 20)
    with vm.vsock.connect(PORT) as sock:
        assert converse(sock, data) == data
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(STEP_TIMEOUT_S)
        sock.connect(os.fspath(tmp_path / "v.sock"))
        sock.sendall(f"CONNECT {PORT}\n".encode())
        assert sock.recv(64).startswith(b"OK ")
        assert converse(sock, b"by the unix socket") == b"by the unix socket"
    # The other way, through a listener of this process and through one of another program.
    count = 1 << 20
    pattern = bytes(((number * 31) >> 3) & 0xFF for number in range(count))
    for listens_in_process in (True, False):
        port = 600 + listens_in_process
        if listens_in_process:
            listener = vm.vsock.listen(port)
            vm.serial.send(f"vsock send {port} {count}\n")
            sock = listener.accept(STEP_TIMEOUT_S)
        else:
            with socket.socket(socket.AF_UNIX) as server:
                server.settimeout(STEP_TIMEOUT_S)
                server.bind(os.fspath(tmp_path / f"v.sock_{port}"))
                server.listen()
                vm.serial.send(f"vsock send {port} {count}\n")
                sock, _ = server.accept()
        with sock:
            assert converse(sock, b"\1\2\3" * 1000) == pattern
        vm.serial.wait_for("got 3000 sum 6000", STEP_TIMEOUT_S)
    vm.serial.send("vsock send 9 1\n")
    vm.serial.wait_for("connect: Connection reset by peer", STEP_TIMEOUT_S)
    assert not vm.vsock.multiplexer.has_packets
