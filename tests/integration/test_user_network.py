"""The user-mode network with Linux as the guest: its own TCP, DHCP and IPv6, and programs that nobody here wrote.

Three network namespaces, so that nothing leaves this machine: the guest's, with a tap device; the host's, in which
the network runs; and the world's, which the host reaches over a pair of virtual interfaces. tshark reads what went
over the cable.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from manor.backends.net.user.plan import GATEWAY_MAC
from manor.testing.tap_guest import INTERFACE

NEEDED = ("ip", "busybox", "curl")

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces and tap devices are for root"),
    pytest.mark.skipif(not os.access("/dev/net/tun", os.R_OK | os.W_OK), reason="there is no /dev/net/tun"),
    *[pytest.mark.skipif(shutil.which(program) is None, reason=f"{program} is not installed") for program in NEEDED],
]

WORLD = "198.51.100.7"  # TEST-NET-2, RFC 5737
HOST = "198.51.100.1"
BLOB = 5_000_000

UDHCPC = f"""#!/bin/sh
[ "$1" = bound ] || exit 0
ip addr add "$ip/$mask" dev {INTERFACE}
ip link set dev {INTERFACE} mtu "$mtu"
ip route add default via "$router"
echo "$ip $mask $router $dns $domain $mtu $hostname $lease" > "$LEASE"
"""

SERVER = """
import hashlib, http.server, socket, sys
class Handler(http.server.SimpleHTTPRequestHandler):
    def do_PUT(self):
        digest, left = hashlib.sha256(), int(self.headers["Content-Length"])
        while left:
            data = self.rfile.read(min(left, 65536))
            left -= len(data)
            digest.update(data)
        body = digest.hexdigest().encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *arguments): pass
class Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
    request_queue_size = 128
server = Server((sys.argv[1], int(sys.argv[2])), Handler)
print("ready", flush=True)
server.serve_forever()
"""


class Tapped:
    """The three namespaces and what runs in them."""

    def __init__(self, directory: Path, *options: str) -> None:
        self.directory = directory
        self.options = options
        self.tag = f"manor{os.getpid()}"
        self.capture = directory / "cable.pcap"
        self.lease = ""
        self.report: dict[str, dict[str, int]] = {}
        self._processes: list[subprocess.Popen[str]] = []
        self._network: subprocess.Popen[str] | None = None

    def namespace(self, role: str) -> str:
        return f"{self.tag}{role}"

    def run(self, role: str, *command: str, check: bool = True) -> str:
        """A program in a namespace, to its end; what it printed."""
        done = subprocess.run(
            ["ip", "netns", "exec", self.namespace(role), *command],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            cwd=self.directory,
            env=os.environ | {"LEASE": str(self.directory / "lease")},
        )
        assert not check or done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    def start(self, role: str, *command: str, ready: str = "") -> subprocess.Popen[str]:
        """A program in a namespace, in the background, until the end. ready: its first line, waited for."""
        process = subprocess.Popen(
            ["ip", "netns", "exec", self.namespace(role), *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=self.directory,
        )
        self._processes.append(process)
        if ready:
            assert process.stdout is not None
            assert process.stdout.readline().strip() == ready
        return process

    def open(self) -> None:
        for role in "ghw":
            subprocess.run(["ip", "netns", "add", self.namespace(role)], check=True)
            self.run(role, "ip", "link", "set", "lo", "up")
        subprocess.run(
            [
                "ip",
                "link",
                "add",
                "up0",
                "netns",
                self.namespace("h"),
                "type",
                "veth",
                "peer",
                "name",
                "down0",
                "netns",
                self.namespace("w"),
            ],
            check=True,
        )
        for role, interface, address in (("h", "up0", HOST), ("w", "down0", WORLD)):
            self.run(role, "ip", "addr", "add", f"{address}/24", "dev", interface)
            self.run(role, "ip", "link", "set", interface, "up")
        self.run("h", "sh", "-c", "echo 0 2147483647 > /proc/sys/net/ipv4/ping_group_range")
        command = [sys.executable, "-m", "manor.testing.tap_guest", self.namespace("g"), "--record", str(self.capture)]
        self._network = self.start("h", *command, *self.options)
        assert self._network.stdout is not None
        self.forwards: list[int] = json.loads(self._network.stdout.readline())["forwards"]
        self.run("g", "ip", "link", "set", INTERFACE, "up")
        script = self.directory / "udhcpc.sh"
        script.write_text(UDHCPC)
        script.chmod(0o755)
        self.run("g", "busybox", "udhcpc", "-i", INTERFACE, "-n", "-q", "-f", "-s", str(script))
        self.lease = (self.directory / "lease").read_text().strip()
        until(lambda: "global dynamic" in self.address6() and "tentative" not in self.address6())

    def address6(self) -> str:
        return self.run("g", "ip", "-6", "addr", "show", "dev", INTERFACE)

    def serve(self, role: str, address: str, port: int) -> None:
        """An HTTP server that gives and takes files."""
        self.start(role, sys.executable, "-c", SERVER, address, str(port), ready="ready")

    def finish(self) -> None:
        """End the network and read what it says about itself."""
        network, self._network = self._network, None
        if network is not None:
            self._processes.remove(network)
            out, _ = network.communicate(timeout=10)
            self.report = json.loads(out)
            assert network.returncode == 0

    def close(self) -> None:
        try:
            self.finish()
        finally:
            for process in self._processes:
                process.kill()
                process.communicate()
            for role in "ghw":
                subprocess.run(["ip", "netns", "del", self.namespace(role)], check=False)


def until(condition: Callable[[], bool], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


@pytest.fixture
def tapped(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Tapped]:
    """A guest with its addresses. The parameter: options of the network."""
    network = Tapped(tmp_path, *getattr(request, "param", ()))
    try:
        network.open()
        yield network
    finally:
        network.close()


@pytest.fixture
def blob(tmp_path: Path) -> str:
    """A file to fetch; its digest."""
    data = os.urandom(BLOB)
    (tmp_path / "blob").write_bytes(data)
    return hashlib.sha256(data).hexdigest()


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def tshark(capture: Path, wanted: str) -> list[str]:
    """The packets of a capture that a display filter matches, one a line."""
    if shutil.which("tshark") is None:
        pytest.skip("tshark is not installed")
    checks = [f"-o{protocol}.check_checksum:TRUE" for protocol in ("ip", "tcp", "udp")]
    command = ["tshark", "-r", str(capture), *checks, "-Y", wanted]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=True)
    return done.stdout.splitlines()


MALFORMED = "_ws.malformed && !_ws.malformed.reassembly"
"""tshark calls it a fault of reassembly when something was sent twice."""
OURS = f"eth.src == {GATEWAY_MAC.hex(':')}"
"""Linux now and then writes a checksum of 0xFFFF where tshark wants the other zero."""
BROKEN = (
    f"({MALFORMED}) || {OURS} && ("
    + " || ".join(f"{name}.checksum.status == 0" for name in ("ip", "tcp", "udp", "icmp", "icmpv6"))
    + ")"
)
SUSPICIOUS = " || ".join(
    f"tcp.analysis.{what}"
    for what in ("retransmission", "out_of_order", "ack_lost_segment", "lost_segment", "duplicate_ack")
)


@pytest.mark.parametrize("tapped", [(), ("--plain",), ("--mtu", "9000")], indirect=True, ids=["whole", "cut", "jumbo"])
def test_an_ordinary_life(tapped: Tapped, blob: str) -> None:
    mtu = "9000" if "9000" in tapped.options else "1500"
    assert tapped.lease == f"10.0.2.15 24 10.0.2.2 10.0.2.3 manor {mtu} tapped 86400"
    for address in ("10.0.2.2", "10.0.2.3", WORLD):
        assert "2 packets received" in tapped.run("g", "busybox", "ping", "-c", "2", "-i", "0.1", address)
    assert "2 packets received" in tapped.run("g", "busybox", "ping", "-6", "-c", "2", "-i", "0.1", "fd00::2")
    assert "1 packets received" in tapped.run("g", "busybox", "ping", "-c", "1", "-s", "20000", WORLD)

    tapped.serve("h", "127.0.0.1", 8001)
    tapped.serve("h", "::1", 8001)
    tapped.serve("w", WORLD, 8002)
    for number, url in enumerate(("10.0.2.2:8001", "[fd00::2]:8001", f"{WORLD}:8002")):
        tapped.run("g", "curl", "-sg", "-o", f"got{number}", f"http://{url}/blob")
        assert digest(tapped.directory / f"got{number}") == blob
        assert tapped.run("g", "curl", "-sg", "-T", "blob", f"http://{url}/x") == blob

    found = tapped.run("g", "busybox", "nslookup", "gateway.manor", "10.0.2.3")
    assert "10.0.2.2" in found
    assert "fd00::2" in found
    assert "tapped.manor" in tapped.run("g", "busybox", "nslookup", "10.0.2.15", "10.0.2.3")
    assert "NXDOMAIN" in tapped.run("g", "busybox", "nslookup", "nobody.manor", "10.0.2.3", check=False)

    started = time.monotonic()
    assert tapped.run("g", "curl", "-s", "-m", "5", f"http://{WORLD}:1/", check=False) == ""
    assert tapped.run("g", "curl", "-s", "-m", "5", "http://127.0.0.1:8001/", check=False) == ""
    assert time.monotonic() - started < 4, "a refusal is said at once"

    tapped.finish()
    assert tapped.report["statistics"]["frames_lost"] == 0
    assert "10.0.2.15" in tapped.report["addresses"]
    if "--plain" in tapped.options:  # else checksums are left to the other side, on purpose
        assert tshark(tapped.capture, BROKEN) == []
        # A busy machine may be later than the shortest time-out, or let frames fall.
        assert len(tshark(tapped.capture, SUSPICIOUS)) < len(tshark(tapped.capture, "tcp")) / 100
    else:
        assert tshark(tapped.capture, MALFORMED) == []
    assert len(tshark(tapped.capture, "tcp.flags.syn == 1 && tcp.flags.ack == 1")) == 6


@pytest.mark.parametrize(
    "tapped", [("--loss", "0.02"), ("--loss", "0.02", "--plain")], indirect=True, ids=["whole", "cut"]
)
def test_streams_over_a_bad_cable(tapped: Tapped, blob: str) -> None:
    """Linux's TCP and ours mend what is lost, in both directions."""
    tapped.serve("h", "127.0.0.1", 8001)
    tapped.run("g", "curl", "-s", "-m", "50", "-o", "got", "http://10.0.2.2:8001/blob")
    assert digest(tapped.directory / "got") == blob
    assert tapped.run("g", "curl", "-s", "-m", "50", "-T", "blob", "http://10.0.2.2:8001/x") == blob
    tapped.finish()
    assert tshark(tapped.capture, "tcp.analysis.retransmission && ip.src == 10.0.2.2") != []
    assert tshark(tapped.capture, MALFORMED) == []


@pytest.mark.parametrize("tapped", [("--forward", "tcp:0:8003", "--forward", "udp:0:8004")], indirect=True)
def test_into_the_guest(tapped: Tapped, blob: str) -> None:
    tapped.serve("g", "0.0.0.0", 8003)
    for url in (f"127.0.0.1:{tapped.forwards[0]}", f"[::1]:{tapped.forwards[0]}"):
        tapped.run("h", "curl", "-sg", "-o", "got", f"http://{url}/blob")
        assert digest(tapped.directory / "got") == blob
        assert tapped.run("h", "curl", "-sg", "-T", "blob", f"http://{url}/x") == blob
    echo = (
        "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(('0.0.0.0', 8004)); "
        "print('ready', flush=True); s.sendto(*s.recvfrom(99))"
    )
    tapped.start("g", sys.executable, "-c", echo, ready="ready")
    question = (
        "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(5); "
        f"s.connect(('127.0.0.1', {tapped.forwards[1]})); s.send(b'echo'); print(s.recv(9))"
    )
    assert tapped.run("h", sys.executable, "-c", question) == "b'echo'\n"


def test_traceroute_sees_the_gateway_and_what_cannot_be_reached_is_said(tapped: Tapped) -> None:
    route = tapped.run("g", "busybox", "traceroute", "-n", "-q", "1", "-w", "2", "-m", "4", WORLD)
    assert [line.split()[1] for line in route.splitlines() if line[:2].strip().isdigit()] == ["10.0.2.2", WORLD]
    for reason, address in (("No route to host", "198.51.100.99"), ("unreachable", "203.0.113.1")):
        said = tapped.run("g", "curl", "-sS", "-m", "8", f"http://{address}/", check=False)
        assert reason in said or "Couldn't connect" in said or "Failed to connect" in said, said
    tapped.finish()
    assert tshark(tapped.capture, "icmp.type == 3 && icmp.code == 1 && ip.src == 10.0.2.2") != []
    assert tshark(tapped.capture, "icmp.type == 3 && icmp.code == 0 && ip.src == 10.0.2.2") != []


@pytest.mark.parametrize("tapped", [("--reach", "none")], indirect=True)
def test_a_closed_network(tapped: Tapped) -> None:
    tapped.serve("h", "127.0.0.1", 8001)
    tapped.serve("w", WORLD, 8002)
    for url in ("10.0.2.2:8001", f"{WORLD}:8002", f"{HOST}:8001", "127.0.0.1:8001"):
        assert tapped.run("g", "curl", "-s", "-m", "5", f"http://{url}/", check=False) == ""
    assert "10.0.2.2" in tapped.run("g", "busybox", "nslookup", "gateway.manor", "10.0.2.3")
    assert "REFUSED" in tapped.run("g", "busybox", "nslookup", "example.org", "10.0.2.3", check=False)
    tapped.finish()
    assert tapped.report["statistics"]["dns_forwarded"] == 0
    assert tapped.report["statistics"]["udp_open"] == 0


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("iperf3") is None, reason="iperf3 is not installed")
def test_iperf3(tapped: Tapped) -> None:
    tapped.start("h", "iperf3", "-s", "-B", "127.0.0.1")
    time.sleep(0.5)
    for options in ((), ("-R",), ("-P", "8"), ("--bidir",), ("-u", "-b", "20M"), ("-u", "-b", "20M", "-R")):
        out = json.loads(tapped.run("g", "iperf3", "-J", "-c", "10.0.2.2", "-t", "1", *options))
        assert "error" not in out, out.get("error")
        total = out["end"]["sum"] if "-u" in options else out["end"]["sum_received"]
        assert total["bytes"] > 1_000_000
        if "-u" in options:
            assert total["lost_percent"] < 5


@pytest.mark.slow
def test_many_connections_at_once(tapped: Tapped) -> None:
    tapped.serve("h", "127.0.0.1", 8001)
    (tapped.directory / "small").write_text("small")
    script = (
        "import concurrent.futures, urllib.request\n"
        "def one(_): return urllib.request.urlopen('http://10.0.2.2:8001/small', timeout=20).read()\n"
        "with concurrent.futures.ThreadPoolExecutor(50) as pool:\n"
        "    print(sum(body == b'small' for body in pool.map(one, range(500))))\n"
    )
    assert tapped.run("g", sys.executable, "-c", script) == "500\n"
    tapped.finish()
    assert tapped.report["statistics"]["tcp_open"] == 0


@pytest.mark.skipif(shutil.which("dhclient") is None, reason="dhclient (isc-dhcp-client) is not installed")
def test_another_dhcp_client(tapped: Tapped) -> None:
    """ISC's, over both families: what it was given, kept, and gave back."""
    tapped.run("g", "ip", "addr", "flush", "dev", INTERFACE, "scope", "global")
    leases = tapped.directory / "dhclient.leases"
    common = ("-1", "-lf", str(leases), "-sf", "/bin/true", "-cf", "/dev/null", "-pf", str(tapped.directory / "pid"))
    tapped.run("g", "dhclient", *common, INTERFACE)
    text = leases.read_text()
    for wanted in (
        "fixed-address 10.0.2.15;",
        "option routers 10.0.2.2;",
        "option domain-name-servers 10.0.2.3;",
        'option domain-name "manor";',
        'option host-name "tapped";',
        "option dhcp-lease-time 86400;",
    ):
        assert wanted in text
    tapped.run("g", "dhclient", "-r", *common, INTERFACE)
    leases.unlink()
    tapped.run("g", "dhclient", "-6", *common, INTERFACE)
    text = leases.read_text()
    assert "iaaddr fd00::15 {" in text
    assert "option dhcp6.name-servers fd00::3;" in text
    tapped.run("g", "dhclient", "-6", "-r", *common, INTERFACE)
    tapped.finish()
    assert tshark(tapped.capture, MALFORMED) == []
    assert len(tshark(tapped.capture, "dhcp.option.dhcp == 5")) == 2
    assert len(tshark(tapped.capture, "dhcpv6.msgtype == 7")) == 2
