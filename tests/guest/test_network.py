"""Network interfaces under a real Linux: each kind of network, what the guest sees of it, what tshark says of it."""

from __future__ import annotations

import hashlib
import http.server
import os
import re
import shutil
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from itertools import zip_longest
from pathlib import Path

import pytest

from manor.accel.choose import choose
from manor.guests.default import DefaultGuest
from manor.guests.init_script import PROMPT
from manor.spec.machine import MachineSpec
from manor.spec.net import NicSpec
from manor.spec.net_text import parse_nic
from manor.testing.guest_process import Boot, GuestProcess, command
from manor.vmm.lifecycle import Reason
from manor.vmm.vm import Vm
from tests.guest.conftest import BOOT_TIMEOUT_S, STEP_TIMEOUT_S

pytestmark = pytest.mark.timeout(240)

needs_root = pytest.mark.skipif(os.getuid() != 0, reason="taps and namespaces of networks need root")


class Guest:
    """A booted VM at its shell."""

    def __init__(self, vm: Vm) -> None:
        self.vm = vm

    def ask(self, line: str, timeout: float = STEP_TIMEOUT_S) -> str:
        """The output of a shell command."""
        # Between two marks that the echo of the command does not contain.
        self.vm.serial.send(f"echo sta''rt; {line}; echo en''d\n")
        output = self.vm.serial.wait_for(re.compile(r"\nend\r?\n"), timeout)
        return output.rsplit("\nstart", 1)[1].rsplit("end", 1)[0].replace("\r", "").strip()

    def wait_for(self, line: str, wanted: str, timeout: float = STEP_TIMEOUT_S) -> str:
        """Repeat a command until its output has `wanted` in it."""
        loop = f"for i in $(seq 100); do {line} | grep -q '{wanted}' && break; sleep 0.2; done; {line}"
        output = self.ask(loop, timeout)
        assert wanted in output
        return output


StartGuests = Callable[..., list[Guest]]


@pytest.fixture
def start_guests(manor_only: None, guest: DefaultGuest) -> Iterator[StartGuests]:
    """start_guests(["user,reach=none"], ["none"]): a booted VM with those interfaces for each list."""
    with ExitStack() as stack:

        def start(*nets: list[str | NicSpec], cpus: int = 1, names: Sequence[str] = ()) -> list[Guest]:
            vms = []
            for texts, name in zip_longest(nets, names, fillvalue=""):
                nics = tuple(parse_nic(text) if isinstance(text, str) else text for text in texts)
                spec = MachineSpec(guest.kernel, guest.initrd, guest.cmdline, cpus=cpus, nics=nics, name=str(name))
                vms.append(stack.enter_context(Vm(spec, choose("dbt").accel, reboot=True)))
                vms[-1].start()
            for vm in vms:
                vm.serial.wait_for(PROMPT, BOOT_TIMEOUT_S)
            return [Guest(vm) for vm in vms]

        yield start


def check_capture(path: Path, at_least: int, kind: str = "frame") -> None:
    """Fail if tshark finds fault with a frame, or too few of that kind (a display filter)."""
    if shutil.which("tshark") is None:
        pytest.skip("tshark is not installed (package tshark)")
    checks = [f"{name}.check_checksum:TRUE" for name in ("ip", "tcp", "udp")]
    options = [word for check in checks for word in ("-o", check)]
    bad = "_ws.malformed || ip.checksum.status == 0 || tcp.checksum.status == 0 || udp.checksum.status == 0 "
    bad += "|| icmp.checksum.status == 0 || icmpv6.checksum.status == 0"
    counts = []
    for wanted in (kind, bad):
        done = subprocess.run(
            ["tshark", "-n", "-r", str(path), *options, "-Y", wanted],
            capture_output=True, text=True, timeout=60, check=True,
        )  # fmt: skip
        counts.append(len(done.stdout.splitlines()))
    assert counts[0] >= at_least
    assert counts[1] == 0, done.stdout[-2000:]


def test_link_goes_down_and_up(start_guests: StartGuests) -> None:
    (guest,) = start_guests(["user,reach=none"])
    carrier = "cat /sys/class/net/eth0/carrier"
    guest.wait_for(carrier, "1")
    guest.vm.nics[0].set_link(False)
    guest.wait_for(carrier, "0")
    guest.vm.nics[0].set_link(True)
    guest.wait_for(carrier, "1")


def test_what_the_guest_sees_of_its_interfaces(start_guests: StartGuests) -> None:
    (guest,) = start_guests(
        ["none,mac=52:54:00:12:34:56,mtu=9000", "user,reach=none,queues=2", "user,reach=none,link=off"], cpus=2
    )
    assert guest.ask("cat /sys/class/net/eth0/address /sys/class/net/eth0/mtu").split() == ["52:54:00:12:34:56", "9000"]
    assert guest.ask("cat /sys/class/net/eth0/carrier /sys/class/net/eth2/carrier").split() == ["0", "0"]
    assert guest.ask("cat /sys/class/net/eth1/speed /sys/class/net/eth1/duplex").split() == ["10000", "full"]
    assert guest.ask("ls -d /sys/class/net/eth1/queues/* | wc -l") == "4"
    assert guest.ask("cat /sys/class/net/eth1/address") == guest.vm.nics[1].mac_text
    guest.ask("ip link set eth1 down; ip link set eth1 address 02:00:00:00:00:77; ip link set eth1 promisc on up")
    assert guest.ask("cat /sys/class/net/eth1/address") == "02:00:00:00:00:77"


# --- the user-mode network --------------------------------------------------------------------------------------------


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Nobody reads it."""


@pytest.fixture
def web(tmp_path: Path) -> Iterator[tuple[int, Path]]:
    """A web server of the host: its port and its directory."""
    directory = tmp_path / "web"
    directory.mkdir()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(directory)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server.server_address[1], directory
    server.shutdown()
    server.server_close()
    thread.join()


def test_lease_web_page_of_the_host_and_forwarded_port(
    start_guests: StartGuests, web: tuple[int, Path], tmp_path: Path
) -> None:
    port, directory = web
    contents = os.urandom(3_000_000)
    (directory / "random").write_bytes(contents)
    capture = tmp_path / "user.pcapng"
    (guest,) = start_guests([f"user,reach=host,hostname=lab1,capture={capture}"])
    guest.wait_for("ip addr show eth0", "10.0.2.15/24")
    assert "10.0.2.15" in guest.vm.nics[0].addresses()
    assert guest.ask("hostname") == "lab1"
    assert "3 packets received" in guest.ask("ping -c 3 10.0.2.2")
    guest.ask(f"wget -q -O /tmp/random http://10.0.2.2:{port}/random")
    forward = guest.vm.nics[0].forwards.add("0:80")
    assert guest.vm.nics[0].forwards.list() == (forward,)
    guest.ask("httpd -h /tmp -p 80")
    with urllib.request.urlopen(f"http://127.0.0.1:{forward.host_port}/random", timeout=STEP_TIMEOUT_S) as answer:
        assert answer.read() == contents
    guest.vm.nics[0].forwards.remove(forward)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", forward.host_port), 5)
    guest.vm.power_off()
    guest.vm.wait(STEP_TIMEOUT_S)
    check_capture(capture, 50)


def test_a_slow_line_is_slow(start_guests: StartGuests) -> None:
    (guest,) = start_guests(["user,reach=host,delay=100ms"])
    guest.wait_for("ip addr show eth0", "10.0.2.15/24", 60)
    best = guest.ask("ping -c 3 10.0.2.2").split("min/avg/max = ")[1].split("/")[0]
    assert float(best) >= 200


def test_a_paused_guest_receives_nothing_and_loses_nothing(start_guests: StartGuests) -> None:
    (guest,) = start_guests(["user,reach=none"])
    guest.wait_for("ip addr show eth0", "10.0.2.15/24")
    forward = guest.vm.nics[0].forwards.add("0:9")
    guest.ask("sleep 100 | nc -l -p 9 > /tmp/got & sleep 0.5")
    with socket.create_connection(("127.0.0.1", forward.host_port), 5) as connection:
        connection.sendall(b"before\n")
        guest.wait_for("cat /tmp/got", "before")
        guest.vm.pause()
        received = guest.vm.nics[0].statistics()["received_frames"]
        connection.sendall(b"meanwhile\n")
        time.sleep(0.5)
        assert guest.vm.nics[0].statistics()["received_frames"] == received
        guest.vm.resume()
        guest.wait_for("cat /tmp/got", "meanwhile")


def test_networks_and_forwards_outlive_a_reboot(start_guests: StartGuests) -> None:
    (guest,) = start_guests([replace(parse_nic("user,reach=none"), mac="02:00:00:00:00:09")])
    nic = guest.vm.nics[0]
    forward = nic.forwards.add("0:80")
    guest.wait_for("ip addr show eth0", "10.0.2.15/24")
    sent = nic.statistics()["sent_frames"]
    guest.vm.serial.send("reboot -f\n")
    guest.vm.serial.wait_for("Linux version", BOOT_TIMEOUT_S)
    guest.vm.serial.wait_for(PROMPT, BOOT_TIMEOUT_S)
    assert guest.ask("cat /sys/class/net/eth0/address") == "02:00:00:00:00:09"
    guest.wait_for("ip addr show eth0", "10.0.2.15/24")
    guest.ask("echo again > /tmp/index.html; httpd -h /tmp -p 80")
    with urllib.request.urlopen(f"http://127.0.0.1:{forward.host_port}/index.html", timeout=STEP_TIMEOUT_S) as answer:
        assert answer.read() == b"again\n"
    assert nic.statistics()["sent_frames"] > sent


# --- isolated networks ------------------------------------------------------------------------------------------------


def test_two_guests_on_an_isolated_network(
    start_guests: StartGuests, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    capture = tmp_path / "isolated.pcapng"
    one, two = start_guests([f"isolated:lab,capture={capture}"], ["isolated:lab"])
    one.ask("ip addr add 192.0.2.1/24 dev eth0")
    two.ask("ip addr add 192.0.2.2/24 dev eth0")
    assert "3 packets received" in one.ask("ping -c 3 192.0.2.2")
    assert "192.0.2.2" in two.vm.nics[0].addresses()
    # IPv6 link-local addresses need nobody.
    local = one.wait_for("ip -6 addr show eth0 scope link", "inet6 fe80").split("inet6 ")[1].split("/")[0]
    two.wait_for("ip -6 addr show eth0 scope link | grep -v tentative", "inet6 fe80")
    assert "2 packets received" in two.ask(f"ping -6 -c 2 {local}%eth0")
    two.ask("sleep 100 | nc -l -p 9 > /tmp/got & sleep 0.5")
    one.ask("dd if=/dev/urandom of=/tmp/file bs=1M count=8 2>/dev/null; nc 192.0.2.2 9 < /tmp/file", 60)
    assert two.ask("md5sum < /tmp/got") == one.ask("md5sum < /tmp/file")
    two.vm.power_off()
    two.vm.wait(STEP_TIMEOUT_S)
    assert one.vm.nics[0].statistics()["peers"] == 0
    one.vm.power_off()
    one.vm.wait(STEP_TIMEOUT_S)
    check_capture(capture, 30)


def test_a_guest_finds_another_by_its_name(
    start_guests: StartGuests, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    nets: list[str | NicSpec] = ["isolated:lab", "user,reach=none"]
    one, two = start_guests(nets, nets, names=("one", "Web_2"))
    for guest, address in ((one, "192.0.2.1"), (two, "192.0.2.2")):
        guest.ask(f"ip link set eth0 up; ip addr add {address}/24 dev eth0")
        guest.wait_for("ip addr show eth1", "10.0.3.15/24")
    assert "3 packets received" in two.ask("ping -c 3 192.0.2.1")
    assert "192.0.2.2" in one.ask("nslookup web-2.manor 10.0.3.3")
    assert "2 packets received" in one.ask("ping -4 -c 2 web-2.manor")
    assert "NXDOMAIN" in one.ask("nslookup nobody.manor 10.0.3.3")


# --- taps -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def namespace() -> Iterator[str]:
    """A network namespace of its own."""
    name = f"manor-test-{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"no network namespace can be made: {made.stderr.strip()}")
    yield name
    subprocess.run(["ip", "netns", "del", name], check=True)


def inside(namespace: str, line: str) -> bytes:
    """The output of a shell command in the namespace."""
    argv = ["ip", "netns", "exec", namespace, "sh", "-ec", line]
    return subprocess.run(argv, stdout=subprocess.PIPE, timeout=60, check=True).stdout


LISTENER = "import socket as s; l=s.create_server(('192.0.2.1',{})); print('listening',flush=True); c=l.accept()[0]; "
SEND = LISTENER + "c.sendall(open({!r},'rb').read())"
RECEIVE = LISTENER + "import hashlib as h; print(h.md5(b''.join(iter(lambda: c.recv(65536), b''))).hexdigest())"


@needs_root
@pytest.mark.parametrize(("pairs", "kind"), [(1, "tap"), (2, "tap"), (1, "bridge"), (1, "macvtap")])
def test_interfaces_of_the_host(
    manor_only: None, guest: DefaultGuest, namespace: str, tmp_path: Path, pairs: int, kind: str
) -> None:
    capture = tmp_path / "tap.pcapng"
    data = tmp_path / "data"
    data.write_bytes(os.urandom(8_000_000))
    inside(namespace, "ip link set lo up")
    if kind == "bridge":
        inside(namespace, "ip link add br7 type bridge && ip addr add 192.0.2.1/24 dev br7 && ip link set br7 up")
        net = f"bridge:br7,capture={capture}"
    elif kind == "macvtap":
        inside(namespace, "ip link add v7 type veth peer name v8 && ip link set v7 up")
        inside(namespace, "ip addr add 192.0.2.1/24 dev v8 && ip link set v8 up")
        try:
            inside(namespace, "ip link add link v7 name x type macvtap && ip link del x")
        except subprocess.CalledProcessError:
            pytest.skip("this kernel has no macvtap")
        net = f"macvtap:v7,capture={capture}"
    else:
        net = f"tap:vt7,mtu=2000,queues={pairs},capture={capture}"
    boot = Boot(guest.kernel, guest.initrd, guest.cmdline, cpus=2, extra=("--net", net))
    argv = ["ip", "netns", "exec", namespace, *command("manor", boot)]
    with GuestProcess(argv) as process:
        process.wait_for(PROMPT, BOOT_TIMEOUT_S)

        def ask(line: str, wanted: str) -> None:
            process.send(line + "\n")
            process.wait_for(wanted, 60)

        if kind == "tap":
            inside(namespace, "ip addr add 192.0.2.1/24 dev vt7")
            assert b"mtu 2000" in inside(namespace, "ip link show vt7")
            ask("echo MTU $(cat /sys/class/net/eth0/mtu)", "\nMTU 2000")
        ask("ip addr add 192.0.2.2/24 dev eth0; ping -c 3 192.0.2.1", "3 packets received")
        if kind == "tap":
            # The largest packet that the MTU allows, in one frame.
            ask("ping -c 1 -s 1972 192.0.2.1", "1 packets received")
        digest = hashlib.md5(data.read_bytes()).hexdigest()
        prefix = ["ip", "netns", "exec", namespace, shutil.which("python3") or "python3", "-c"]
        with subprocess.Popen([*prefix, SEND.format(9001, str(data))], stdout=subprocess.PIPE) as server:
            assert server.stdout is not None
            assert server.stdout.readline() == b"listening\n"
            ask("nc 192.0.2.1 9001 < /dev/null > /tmp/got; md5sum < /tmp/got", digest)
        with subprocess.Popen([*prefix, RECEIVE.format(9002)], stdout=subprocess.PIPE) as server:
            assert server.stdout is not None
            assert server.stdout.readline() == b"listening\n"
            process.send("nc 192.0.2.1 9002 < /tmp/got\n")
            assert server.stdout.readline().decode().strip() == digest
        process.send("exit\n")
        assert process.wait(STEP_TIMEOUT_S) == 0
    left = inside(namespace, "ip link")
    assert not any(name in left for name in (b"vt7", b"manor0", b"mvt"))
    check_capture(capture, 100)
    if kind == "tap":
        check_capture(capture, 2, "icmp && frame.len == 2014")


@needs_root
def test_a_name_that_is_no_tap(manor_only: None, guest: DefaultGuest, namespace: str) -> None:
    for net, message in (
        ("tap:lo", "lo is not a tap"),
        ("bridge:br9", "br9 does not exist"),
        ("bridge:lo", "lo is not a bridge"),
        ("macvtap:eth9", "the host has no interface eth9"),
    ):
        boot = Boot(guest.kernel, guest.initrd, guest.cmdline, extra=("--net", net))
        with GuestProcess(["ip", "netns", "exec", namespace, *command("manor", boot)]) as process:
            assert process.wait(STEP_TIMEOUT_S) == 2
            assert message in process.errors
            assert len(process.errors.splitlines()) == 1


def test_power_off_with_interfaces(start_guests: StartGuests) -> None:
    (guest,) = start_guests(["user,reach=none", "none"])
    guest.vm.serial.send("exit\n")
    assert guest.vm.wait(STEP_TIMEOUT_S).reason is Reason.POWER_OFF
