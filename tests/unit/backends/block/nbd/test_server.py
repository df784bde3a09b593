"""Client and server over real sockets, and each of them against programs that nobody here wrote."""

from __future__ import annotations

import random
import shutil
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from manor.backends.block.api import BlockBackend, BlockError
from manor.backends.block.nbd import client as client_module
from manor.backends.block.nbd.client import NbdImage
from manor.backends.block.nbd.connection import list_exports
from manor.backends.block.nbd.server import MAX_REQUESTS, Export, NbdServer
from manor.backends.block.nbd.transport import server_context
from manor.backends.block.nbd.uri import parse_address
from manor.backends.block.open import OpenOptions, open_image
from manor.base.errors import ConfigError, HostError
from manor.base.units import KiB, MiB
from manor.testing.memory_disk import MemoryDisk
from manor.trace.sink import RingSink, disable, enable

SIZE = 3 * MiB


def needs(*tools: str) -> pytest.MarkDecorator:
    missing = [tool for tool in tools if shutil.which(tool) is None]
    return pytest.mark.skipif(bool(missing), reason=f"needs {' and '.join(missing)}")


def run(*command: object, check: bool = True) -> str:
    done = subprocess.run(list(map(str, command)), check=False, capture_output=True, text=True, timeout=60)
    if check:
        assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def disk() -> MemoryDisk:
    image = MemoryDisk(SIZE)
    source = random.Random(30)
    for offset in (0, 70_000, 1 * MiB, 2 * MiB + 5):
        image.data[offset : offset + 50_000] = source.randbytes(50_000)
    return image


@pytest.fixture
def server(disk: MemoryDisk, tmp_path: Path) -> Iterator[NbdServer]:
    server = NbdServer({"disk": Export(disk, description="for tests"), "rom": Export(disk, read_only=True)})
    server.listen_unix(str(tmp_path / "nbd.sock"))
    yield server
    server.stop()


def uri(tmp_path: Path, export: str = "disk") -> str:
    return f"nbd+unix:///{export}?socket={tmp_path / 'nbd.sock'}"


def read(image: BlockBackend, offset: int, size: int) -> bytes:
    data = bytearray(size)
    half = size // 3
    image.read(offset, [memoryview(data)[:half], memoryview(data)[half:]])
    return bytes(data)


# ---------------------------------------------------------------------- ours with ours
def test_everything_a_disk_does(server: NbdServer, disk: MemoryDisk, tmp_path: Path) -> None:
    image = open_image(uri(tmp_path))
    assert image.size == SIZE
    assert read(image, 0, SIZE) == disk.data
    image.write(100, [memoryview(b"abc"), memoryview(b"def")])
    assert disk.data[100:106] == b"abcdef"
    image.write_zeroes(70_000, 10_000, False)
    image.write_zeroes(90_000, 10_000, True)
    image.discard(1 * MiB, 4096)
    image.flush()
    assert disk.calls[-4:] == [
        ("write_zeroes", 70_000, 10_000),
        ("unmap_zeroes", 90_000, 10_000),
        ("discard", MiB, 4096),
        ("flush", 0, 0),
    ]
    assert not image.read_nowait(0, [memoryview(bytearray(1))])
    with pytest.raises(BlockError, match="its server's to change"):
        image.resize(5)
    image.close()
    image.close()


def test_map(server: NbdServer, disk: MemoryDisk, tmp_path: Path) -> None:
    image = open_image(uri(tmp_path), OpenOptions(read_only=True))
    position = 12_345
    kinds = set()
    for extent in image.extents(position, SIZE - 20_000):
        assert extent.offset == position
        position += extent.size
        kinds.add(extent.kind)
        assert extent.kind == "data" or not any(disk.data[extent.offset : position])
    assert position == 12_345 + SIZE - 20_000
    assert kinds == {"data", "hole", "zero"}
    image.close()


def test_closing_flushes_what_was_written(server: NbdServer, disk: MemoryDisk, tmp_path: Path) -> None:
    image = open_image(uri(tmp_path))
    image.write(0, [memoryview(b"x")])
    image.close()
    assert disk.calls[-1] == ("flush", 0, 0)


def test_many_threads_share_a_connection(server: NbdServer, disk: MemoryDisk, tmp_path: Path) -> None:
    image = open_image(uri(tmp_path))
    failures: list[str] = []

    def work(number: int) -> None:
        source = random.Random(number)
        base = number * 256 * KiB
        for _ in range(40):
            data = source.randbytes(source.randrange(1, 100_000))
            offset = base + source.randrange(256 * KiB - len(data))
            image.write(offset, [memoryview(data)])
            if read(image, offset, len(data)) != data:
                failures.append(f"thread {number}: other bytes at {offset}")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    image.close()


def test_errors_arrive_with_their_reason(server: NbdServer, disk: MemoryDisk, tmp_path: Path) -> None:
    image = open_image(uri(tmp_path))
    disk.fail["write"] = BlockError("the host's disk is full", "no-space")
    with pytest.raises(BlockError, match="the host's disk is full") as caught:
        image.write(0, [memoryview(b"x")])
    assert caught.value.reason == "no-space"
    disk.fail["flush"] = BlockError("broken")
    with pytest.raises(BlockError, match="EIO: broken"):
        image.flush()
    image.flush()
    image.close()


def test_read_only_export(server: NbdServer, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="read-only"):
        open_image(uri(tmp_path, "rom"))
    image = open_image(uri(tmp_path, "rom"), OpenOptions(read_only=True))
    with pytest.raises(BlockError) as caught:
        image.write(0, [memoryview(b"x")])
    assert caught.value.reason == "read-only"
    image.close()


def test_wrong_names_are_explained(server: NbdServer, tmp_path: Path) -> None:
    with pytest.raises(HostError, match="no export of that name.*it has 'disk', 'rom'"):
        open_image(uri(tmp_path, "other"))
    with pytest.raises(HostError, match="see that it runs"):
        open_image(f"nbd:unix:{tmp_path}/none")
    with pytest.raises(ConfigError, match="raw disk"):
        open_image(uri(tmp_path), OpenOptions(format="qcow2"))
    assert [offer.name for offer in list_exports(parse_address(uri(tmp_path)))] == ["disk", "rom"]


def test_tcp_on_loopback(disk: MemoryDisk) -> None:
    server = NbdServer({"": Export(disk)})
    port = server.listen_tcp("127.0.0.1", 0)
    image = open_image(f"nbd://127.0.0.1:{port}")
    assert read(image, 0, SIZE) == disk.data
    image.close()
    assert server.wait_idle(10)
    server.stop()


def test_reads_of_zeros_are_told_not_sent(server: NbdServer, disk: MemoryDisk, tmp_path: Path) -> None:
    disk.data[:] = bytes(SIZE)
    image = open_image(uri(tmp_path))
    data = bytearray(b"x" * SIZE)
    image.read(0, [memoryview(data)])
    assert not any(data)
    image.close()


def test_socket_that_a_server_left_is_replaced_and_one_in_use_is_not(server: NbdServer, tmp_path: Path) -> None:
    other = NbdServer({"": Export(MemoryDisk(512))})
    with pytest.raises(HostError, match="another server is listening"):
        other.listen_unix(str(tmp_path / "nbd.sock"))
    (tmp_path / "file").write_text("precious")
    with pytest.raises(HostError, match="choose another one"):
        other.listen_unix(str(tmp_path / "file"))
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "dead.sock"))
    other.listen_unix(str(tmp_path / "dead.sock"))
    assert (tmp_path / "dead.sock").stat().st_mode & 0o777 == 0o600
    other.stop()
    assert not (tmp_path / "dead.sock").exists()


def test_clients_are_bounded_and_bad_ones_leave(disk: MemoryDisk, tmp_path: Path) -> None:
    server = NbdServer({"": Export(disk)}, max_clients=2)
    path = str(tmp_path / "s")
    server.listen_unix(path)
    ring = RingSink(100)
    enable("nbd_client", ring)
    try:
        sockets = []
        for _ in range(3):
            one = socket.socket(socket.AF_UNIX)
            one.settimeout(10)
            one.connect(path)
            sockets.append(one)
        assert sockets[0].recv(18) == b"NBDMAGICIHAVEOPT\0\3"
        assert sockets[1].recv(18) == b"NBDMAGICIHAVEOPT\0\3"
        assert sockets[2].recv(18) == b"", "the third is one too many"
        sockets[0].sendall(b"GET / HTTP/1.1\r\n\r\n")
        while sockets[0].recv(100):
            pass
        for one in sockets:
            one.close()
        assert server.wait_idle(10)
        assert [values[1] for _, values in ring.events].count("connected") == 2
    finally:
        disable("nbd_client", ring)
        server.stop()


def test_client_that_takes_no_answers_keeps_no_other_one_waiting(
    server: NbdServer, disk: MemoryDisk, tmp_path: Path
) -> None:
    with socket.socket(socket.AF_UNIX) as lazy:
        lazy.connect(str(tmp_path / "nbd.sock"))
        lazy.sendall(b"\0\0\0\3" + b"IHAVEOPT" + struct.pack(">II", 7, 6) + bytes(6))
        lazy.settimeout(0.5)
        requests = b"".join(struct.pack(">IHHQQI", 0x25609513, 0, 0, cookie, 0, SIZE) for cookie in range(100_000))
        with pytest.raises(TimeoutError):
            lazy.sendall(requests)
        image = open_image(uri(tmp_path))
        assert read(image, 0, SIZE) == disk.data
        image.close()
        done = len(disk.calls)
    # What it had asked for and nobody waits for any more is not done.
    deadline = time.monotonic() + 20
    while server.clients and time.monotonic() < deadline:
        time.sleep(0.01)
    assert server.clients == 0
    assert len(disk.calls) - done <= 2 * MAX_REQUESTS


# ---------------------------------------------------------------------- connections that break
class Breaker:
    """Between client and server: passes bytes on until it is told to break."""

    def __init__(self, path: Path, target: Path) -> None:
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._target = target
        self._sockets: list[socket.socket] = []
        self.connections = 0
        self.refuses = False
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                left, _ = self._listener.accept()
            except OSError:
                return
            if self.refuses:
                left.close()
                continue
            right = socket.socket(socket.AF_UNIX)
            right.connect(str(self._target))
            self.connections += 1
            self._sockets += [left, right]
            for one, other in ((left, right), (right, left)):
                threading.Thread(target=self._pass, args=(one, other), daemon=True).start()

    def _pass(self, one: socket.socket, other: socket.socket) -> None:
        try:
            while data := one.recv(65536):
                other.sendall(data)
            other.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

    def break_all(self) -> None:
        for one in self._sockets:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        self._sockets = []

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.break_all()


@pytest.fixture
def breaker(server: NbdServer, tmp_path: Path) -> Iterator[Breaker]:
    breaker = Breaker(tmp_path / "between", tmp_path / "nbd.sock")
    yield breaker
    breaker.close()


@contextmanager
def through(tmp_path: Path, *, read_only: bool = False) -> Iterator[NbdImage]:
    image = NbdImage(parse_address(f"nbd:unix:{tmp_path}/between:exportname=disk"), read_only=read_only)
    yield image
    with suppress(BlockError):
        image.close()


def test_connection_is_made_anew(breaker: Breaker, disk: MemoryDisk, tmp_path: Path) -> None:
    with through(tmp_path) as image:
        assert read(image, 0, 1000) == disk.data[:1000]
        breaker.break_all()
        assert read(image, 0, 1000) == disk.data[:1000]
        image.write(0, [memoryview(b"x")])
        image.flush()
        breaker.break_all()
        image.write(1, [memoryview(b"y")])
        assert disk.data[:2] == b"xy"
        assert breaker.connections == 3


def test_lost_connection_with_unflushed_writes_is_never_papered_over(breaker: Breaker, tmp_path: Path) -> None:
    """The server may have lost them; a flush on a new connection would say that they are safe."""
    with through(tmp_path) as image:
        image.write(0, [memoryview(b"x")])
        breaker.break_all()
        for call in (image.flush, image.flush, lambda: image.write(0, [memoryview(b"y")])):
            with pytest.raises(BlockError, match="since the last flush"):
                call()
        assert breaker.connections == 1


def test_server_that_stays_away(breaker: Breaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "RECONNECT_SECONDS", 0.5)
    with through(tmp_path) as image:
        breaker.refuses = True
        breaker.break_all()
        start = time.monotonic()
        with pytest.raises(BlockError, match="does not come back"):
            read(image, 0, 10)
        assert time.monotonic() - start > 0.4
        start = time.monotonic()
        with pytest.raises(BlockError, match="does not come back"):
            read(image, 0, 10)
        assert time.monotonic() - start < 0.4, "later requests do not wait again"
        breaker.refuses = False
        assert len(read(image, 0, 10)) == 10


def test_all_threads_survive_a_break(breaker: Breaker, disk: MemoryDisk, tmp_path: Path) -> None:
    with through(tmp_path, read_only=True) as image:
        failures: list[str] = []

        def work(number: int) -> None:
            for index in range(150):
                offset = (number * 7919 + index * 4096) % (SIZE - 5000)
                if read(image, offset, 5000) != disk.data[offset : offset + 5000]:
                    failures.append(f"thread {number}: other bytes at {offset}")

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for _ in range(2):
            time.sleep(0.05)
            breaker.break_all()
        for thread in threads:
            thread.join()
        assert not failures


# ---------------------------------------------------------------------- TLS
@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl to make certificates")
    folder = tmp_path_factory.mktemp("tls")
    new = ["openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-x509", "-days", "2"]
    ca = ["-keyout", folder / "ca-key.pem", "-out", folder / "ca-cert.pem", "-subj", "/CN=test authority"]
    run(*new, *ca)
    for who, name in (("server", "localhost"), ("client", "client")):
        signed = [
            "-CA",
            folder / "ca-cert.pem",
            "-CAkey",
            folder / "ca-key.pem",
            "-addext",
            f"subjectAltName=DNS:{name}",
        ]
        files = ["-keyout", folder / f"{who}-key.pem", "-out", folder / f"{who}-cert.pem", "-subj", f"/CN={name}"]
        run(*new, *signed, *files, "-addext", "basicConstraints=critical,CA:FALSE")
    return folder


def test_tls_between_ours(disk: MemoryDisk, certificates: Path, tmp_path: Path) -> None:
    server = NbdServer({"disk": Export(disk)}, tls=server_context(str(certificates)))
    server.listen_unix(str(tmp_path / "nbd.sock"))
    plain = uri(tmp_path)
    secure = plain.replace("nbd+", "nbds+") + f"&tls-certificates={certificates}"
    with pytest.raises(HostError, match="wants TLS; write nbds:"):
        open_image(plain)
    image = open_image(secure)
    threads = [
        threading.Thread(target=image.write, args=(i * 1000, [memoryview(bytes([i + 1]) * 1000)])) for i in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert read(image, 0, SIZE) == disk.data
    assert disk.data[:8000] == b"".join(bytes([i + 1]) * 1000 for i in range(8))
    image.close()
    with pytest.raises(HostError, match="certificate is not trusted.*tls-certificates=FOLDER"):
        open_image(secure + "&tls-hostname=elsewhere")
    server.stop()


@needs("nbdkit")
def test_tls_with_nbdkit(certificates: Path, tmp_path: Path) -> None:
    path = tmp_path / "kit.sock"
    command = ["nbdkit", "-f", "-U", path, "--tls=require", f"--tls-certificates={certificates}", "pattern", "1M"]
    with started(*command, socket_path=path):
        image = open_image(f"nbds+unix:///?socket={path}&tls-certificates={certificates}", OpenOptions(read_only=True))
        assert read(image, 512 * KiB, 16) == struct.pack(">QQ", 512 * KiB, 512 * KiB + 8)
        image.close()


# ---------------------------------------------------------------------- oracles
@contextmanager
def started(*command: object, socket_path: Path) -> Iterator[None]:
    process = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 20
    while not socket_path.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    try:
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        yield
    finally:
        process.terminate()
        process.communicate()


@needs("nbdinfo", "nbdcopy")
def test_libnbd_reads_from_our_server(server: NbdServer, disk: MemoryDisk, tmp_path: Path) -> None:
    text = run("nbdinfo", uri(tmp_path))
    for line in ("export-size: 3145728", "base:allocation", "can_fua: true", "can_trim: true", "can_multi_conn: true"):
        assert line in text
    assert "structured packets" in text
    listed = run("nbdinfo", "--list", f"nbd+unix:///?socket={tmp_path}/nbd.sock")
    assert 'export="disk":' in listed
    assert 'export="rom":' in listed
    run("nbdcopy", uri(tmp_path), tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == disk.data
    data = random.Random(5).randbytes(SIZE)
    (tmp_path / "data").write_bytes(data)
    run("nbdcopy", tmp_path / "data", uri(tmp_path))
    assert disk.data == data


@needs("nbdinfo")
def test_libnbd_sees_our_map(server: NbdServer, disk: MemoryDisk, tmp_path: Path) -> None:
    names = {"0": "data", "2": "zero", "3": "hole"}
    rows = [line.split() for line in run("nbdinfo", "--map", uri(tmp_path)).splitlines()]
    theirs = [(int(row[0]), int(row[1]), names[row[2]]) for row in rows]
    ours: list[tuple[int, int, str]] = []
    for extent in disk.extents(0, SIZE):
        if ours and ours[-1][2] == extent.kind:
            ours[-1] = (ours[-1][0], ours[-1][1] + extent.size, extent.kind)
        else:
            ours.append((extent.offset, extent.size, extent.kind))
    assert theirs == ours


@needs("qemu-img", "qemu-io")
def test_qemu_on_our_server(server: NbdServer, disk: MemoryDisk, tmp_path: Path) -> None:
    run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", uri(tmp_path), tmp_path / "a.qcow2")
    run("qemu-img", "convert", "-O", "raw", tmp_path / "a.qcow2", tmp_path / "raw")
    assert (tmp_path / "raw").read_bytes() == disk.data
    commands = [
        "write -P 7 1000 5000", "write -f -P 8 100k 64k", "write -z 200k 100k", "write -zu 400k 100k", "discard 1M 64k",
        "aio_write -P 3 1536k 512k", "aio_read 0 1M", "aio_flush", "read -P 8 100k 64k", "flush",
    ]  # fmt: skip
    words = [word for command in commands for word in ("-c", command)]
    text = run("qemu-io", "-f", "raw", *words, uri(tmp_path))
    assert "failed" not in text
    assert disk.data[1000:6000] == b"\x07" * 5000
    assert disk.data[100 * KiB : 164 * KiB] == b"\x08" * (64 * KiB)
    assert not any(disk.data[200 * KiB : 300 * KiB] + disk.data[400 * KiB : 500 * KiB])
    assert disk.data[1536 * KiB : 2048 * KiB] == b"\x03" * (512 * KiB)
    assert {"write_zeroes", "unmap_zeroes", "discard", "flush"} <= {what for what, _, _ in disk.calls}


NBDKIT = {
    "all": "",
    "no-extents": "--filter=noextents",
    "no-zeroes": "--filter=nozero",
    "no-structured": "--no-sr",
    "blocks-of-4096": "--filter=blocksize-policy blocksize-error-policy=error blocksize-minimum=4096"
    " blocksize-preferred=4096 blocksize-maximum=1M",
}


@pytest.mark.parametrize("words", NBDKIT.values(), ids=list(NBDKIT))
@needs("nbdkit")
def test_our_client_with_nbdkit(words: str, tmp_path: Path) -> None:
    path = tmp_path / "kit.sock"
    options = [word for word in words.split() if word.startswith("-")]
    settings = [word for word in words.split() if not word.startswith("-")]
    with started("nbdkit", "-f", "-U", path, *options, "memory", "3M", *settings, socket_path=path):
        check_random_operations(f"nbd:unix:{path}")


@needs("qemu-nbd", "qemu-img")
def test_our_client_with_qemu_nbd(tmp_path: Path) -> None:
    path = tmp_path / "q.sock"
    run("qemu-img", "create", "-q", "-f", "qcow2", tmp_path / "a.qcow2", "3M")
    command = ["qemu-nbd", "-t", "-k", path, "-x", "disk", "-f", "qcow2", "--discard=unmap", tmp_path / "a.qcow2"]
    with started(*command, socket_path=path):
        expected = check_random_operations(f"nbd+unix:///disk?socket={path}")
    run("qemu-img", "convert", "-O", "raw", tmp_path / "a.qcow2", tmp_path / "raw")
    assert (tmp_path / "raw").read_bytes() == expected
    run("qemu-img", "check", tmp_path / "a.qcow2")


def check_random_operations(address: str) -> bytes:
    """What was written is read again, whatever was done between; returns what the disk holds."""
    image = open_image(address)
    assert image.size == SIZE
    model = bytearray(SIZE)
    source = random.Random(31)
    for _ in range(150):
        offset = source.randrange(SIZE)
        size = min(source.choice([1, 512, 4096, 70_000, 500_000]), SIZE - offset)
        match source.choice(["write", "zero", "read", "read", "flush"]):
            case "write":
                data = source.randbytes(size)
                image.write(offset, [memoryview(data)[: size // 2], memoryview(data)[size // 2 :]])
                model[offset : offset + size] = data
            case "zero":
                image.write_zeroes(offset, size, source.random() < 0.5)
                model[offset : offset + size] = bytes(size)
            case "read":
                assert read(image, offset, size) == model[offset : offset + size]
            case "flush":
                image.flush()
    position = 0
    for extent in image.extents(0, SIZE):
        assert extent.offset == position
        position += extent.size
        assert extent.kind == "data" or not any(model[extent.offset : position])
    assert position == SIZE
    image.close()
    return bytes(model)
