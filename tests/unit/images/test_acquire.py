"""Images into the store: fetched from a server on loopback, or from files; verified, unpacked, converted."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import http.server
import io
import json
import lzma
import os
import shutil
import subprocess
import tarfile
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

import pytest
import zstandard

from manor.base.errors import ConfigError, HostError, ManorError, ProtocolError
from manor.guests.progress import Silent
from manor.images import download as download_module
from manor.images.acquire import Wanted, import_file, pull
from manor.images.download import DownloadError, download
from manor.images.known import KNOWN, Source, find_source, read_config
from manor.images.reference import Reference, parse_reference
from manor.images.store import Store, StoredImage
from manor.images.unpacked import unpack
from manor.images.verify import NotGenuine, check_signature, find_checksum

DISK = bytes(range(256)) * 256 + bytes(300_000) + b"end" + bytes(509)
NAME = Reference("debian")
QEMU_IMG = shutil.which("qemu-img")


class Server(http.server.ThreadingHTTPServer):
    """A web server of files in memory, with ranges, that misbehaves as a test says."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.redirects: dict[str, str] = {}
        self.requests: list[tuple[str, str | None]] = []
        self.break_after: list[int] = []
        """For each of the next answers: how many bytes until the connection breaks."""
        self.has_ranges = True
        self.has_length = True
        self.status = 200
        self.tag = '"one"'

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}{path}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"
    close_connection = True
    quiet: ClassVar[bool] = True

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        server = self.server
        wanted = self.headers.get("Range")
        server.requests.append((self.path, wanted))
        if self.path in server.redirects:
            self.send_response(302)
            self.send_header("Location", server.redirects[self.path])
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        data = server.files.get(self.path)
        if data is None or server.status != 200:
            self.send_error(404 if data is None else server.status)
            return
        start = 0
        if wanted and server.has_ranges and self.headers.get("If-Range") == server.tag:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            if start >= len(data):
                self.send_error(416)
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        else:
            self.send_response(200)
        self.send_header("ETag", server.tag)
        if server.has_length:
            self.send_header("Content-Length", str(len(data) - start))
        self.send_header("Connection", "close")
        self.end_headers()
        body = data[start:]
        if server.break_after:
            body = body[: server.break_after.pop(0)]
        self.wfile.write(body)


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as made:
        thread = threading.Thread(target=made.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield made
        made.shutdown()
        thread.join(10)


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "images")


def fetch(store: Store, server: Server, path: str = "/disk.img", digest: str = "", checksums: str = "") -> StoredImage:
    return pull(store, Source(server.url(path), checksums), Wanted(NAME, digest), Silent())


def nothing_left(store: Store) -> bool:
    return store.images() == [] and not list(store.root.glob("incoming/*/*"))


# --- downloads --------------------------------------------------------------------------------------------------------


def test_disk_is_fetched_and_named(store: Store, server: Server) -> None:
    server.files["/disk.img"] = DISK
    image = fetch(store, server, digest=hashlib.sha256(DISK).hexdigest())
    assert image.names == (NAME,)
    assert image.path.read_bytes() == DISK
    assert (image.metadata.format, image.metadata.virtual_size) == ("raw", len(DISK))
    assert image.metadata.source == server.url("/disk.img")
    assert not list(store.root.glob("incoming/*/*"))


def test_broken_connection_goes_on_where_it_was(store: Store, server: Server) -> None:
    server.files["/disk.img"] = DISK
    server.break_after = [1000, 50_000, 0, 0]
    assert fetch(store, server).path.read_bytes() == DISK
    assert [wanted for _, wanted in server.requests] == [
        None, "bytes=1000-", "bytes=51000-", "bytes=51000-", "bytes=51000-",
    ]  # fmt: skip


def test_connection_that_brings_nothing_any_more_ends_the_attempts(store: Store, server: Server) -> None:
    server.files["/disk.img"] = DISK
    server.break_after = [1000] + [0] * 50
    with pytest.raises(DownloadError, match="what came is kept"):
        fetch(store, server)
    assert len(server.requests) == 1 + 4
    assert store.images() == []
    server.break_after = []
    assert fetch(store, server).path.read_bytes() == DISK
    assert server.requests[-1][1] == "bytes=1000-"


def test_other_file_under_the_same_address_is_fetched_anew(store: Store, server: Server) -> None:
    server.files["/disk.img"] = b"x" * 4096
    server.break_after = [1000] + [0] * 4
    with pytest.raises(DownloadError):
        fetch(store, server)
    server.files["/disk.img"], server.tag = DISK, '"two"'
    assert fetch(store, server).path.read_bytes() == DISK


def test_server_without_ranges_is_asked_for_all(store: Store, server: Server) -> None:
    server.files["/disk.img"] = DISK
    server.has_ranges = False
    server.break_after = [1000]
    assert fetch(store, server).path.read_bytes() == DISK


def test_part_longer_than_the_file_is_fetched_anew(store: Store, server: Server) -> None:
    server.files["/disk.img"] = b"x" * 8192
    server.break_after = [5000] + [0] * 4
    with pytest.raises(DownloadError):
        fetch(store, server)
    server.files["/disk.img"] = b"y" * 4096
    assert fetch(store, server).path.read_bytes() == b"y" * 4096


def test_server_that_sends_another_part_is_not_believed(
    store: Store, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.files["/disk.img"] = DISK
    server.break_after = [1000]
    send = Handler.send_header
    monkeypatch.setattr(
        Handler, "send_header",
        lambda self, name, value: send(self, name, "bytes 0-9/10" if name == "Content-Range" else value),
    )  # fmt: skip
    with pytest.raises(DownloadError, match="another part"):
        fetch(store, server)


def test_length_that_is_not_known(store: Store, server: Server) -> None:
    server.files["/disk.img"] = DISK
    server.has_length = False
    assert fetch(store, server).path.read_bytes() == DISK


@pytest.mark.parametrize("has_length", [True, False])
def test_file_over_the_limit_is_refused(store: Store, server: Server, has_length: bool) -> None:
    server.files["/disk.img"] = DISK
    server.has_length = has_length
    with pytest.raises(DownloadError, match="1000 B"):
        pull(store, Source(server.url("/disk.img")), Wanted(NAME), Silent(), limit=1000)
    assert store.images() == []


def test_disk_without_room_is_known_before(store: Store, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.files["/disk.img"] = DISK
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(DownloadError, match="1000 B free; make room"):
        fetch(store, server)


def test_disk_that_becomes_full_is_cleaned(store: Store, server: Server) -> None:
    server.files["/disk.img"] = DISK
    target = Path("/dev/full")
    if not target.exists():
        pytest.skip("there is no /dev/full on this machine")
    with store.incoming("x") as folder:
        (folder / "part").symlink_to(target)
        # What is known of the part would be written beside it; a part that is there and empty is begun anew.
        download_module._kept_path(folder / "part").write_text("{}")
        with pytest.raises(DownloadError, match="full"):
            download_module._receive(
                io.BytesIO(DISK), folder / "part", 0, None, 1 << 30, lambda done, total: None, "url"
            )
        assert not (folder / "part").is_symlink()


@pytest.mark.parametrize(("status", "requests"), [(403, 1), (500, 5), (503, 5)])
def test_error_of_the_server_is_told(store: Store, server: Server, status: int, requests: int) -> None:
    server.files["/disk.img"] = DISK
    server.status = status
    with pytest.raises(DownloadError, match=f"the server says {status}"):
        fetch(store, server)
    assert len(server.requests) == requests


def test_file_that_is_not_there(store: Store, server: Server) -> None:
    with pytest.raises(DownloadError, match="the server says 404"):
        fetch(store, server)


def test_nobody_listens(store: Store, server: Server) -> None:
    server.server_close()
    with pytest.raises(DownloadError, match="Connection refused"):
        fetch(store, server)


def test_few_redirections_are_followed_and_many_not(store: Store, server: Server) -> None:
    server.files["/disk.img"] = DISK
    server.redirects = {
        "/a": "/b",
        "/b": server.url("/disk.img"),
        "/loop": "/loop",
        **{f"/{n}": f"/{n + 1}" for n in range(9)},
    }
    assert fetch(store, server, "/a").path.read_bytes() == DISK
    for path in ("/loop", "/0"):
        with pytest.raises(DownloadError):
            fetch(store, server, path)


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/x", "data:text/plain,x", "gopher://x"])
def test_redirection_to_what_is_no_web_server(store: Store, server: Server, target: str) -> None:
    server.redirects["/disk.img"] = target
    with pytest.raises(DownloadError, match=r"not safe|302"):
        fetch(store, server)
    assert store.images() == []


@pytest.mark.parametrize("url", ["file:///etc/passwd", "/etc/passwd", "http://", "x", "ftp://a/b"])
def test_address_that_is_none(tmp_path: Path, url: str) -> None:
    with pytest.raises(ConfigError, match="not an http or https address"):
        download(url, tmp_path / "x", 1, lambda done, total: None)


# --- is it genuine ----------------------------------------------------------------------------------------------------


def test_wrong_checksum_keeps_nothing(store: Store, server: Server) -> None:
    server.files["/disk.img"] = DISK
    with pytest.raises(NotGenuine, match="not what its checksum says"):
        fetch(store, server, digest="0" * 64)
    assert store.images() == []
    assert not list(store.root.glob("incoming/*/part"))


@pytest.mark.parametrize(
    "line", ["{256}  disk.img", "{256} *disk.img", "{512}  ./disk.img", "SHA512 (disk.img) = {512}", "{256}\n"]
)
def test_list_of_checksums_beside_the_file(store: Store, server: Server, line: str) -> None:
    sums = {"{256}": hashlib.sha256(DISK).hexdigest(), "{512}": hashlib.sha512(DISK).hexdigest()}
    for key, value in sums.items():
        line = line.replace(key, value)
    other = "" if line.endswith("\n") else f"{'0' * 64}  other.img\n"
    server.files |= {"/disk.img": DISK, "/SUMS": f"{other}{line}\n".encode()}
    fetch(store, server, checksums=server.url("/SUMS"))
    server.files["/disk.img"] = DISK[:-1] + b"!"
    with pytest.raises(NotGenuine):
        fetch(store, server, checksums=server.url("/SUMS"))


def test_list_without_the_file_and_list_that_is_not_there(store: Store, server: Server) -> None:
    server.files |= {"/disk.img": DISK, "/SUMS": b"0" * 64 + b"  other.img\n" + b"1" * 64 + b"  third\n"}
    with pytest.raises(NotGenuine, match=r"has no checksum of disk\.img"):
        fetch(store, server, checksums=server.url("/SUMS"))
    with pytest.raises(DownloadError, match="no list of checksums"):
        fetch(store, server, checksums=server.url("/NONE"))
    assert [path for path, _ in server.requests] == ["/SUMS", "/NONE"]


def test_html_instead_of_checksums_names_no_file() -> None:
    assert find_checksum(b"<html>404</html>", "disk.img") is None


@pytest.fixture
def signer(tmp_path: Path) -> Callable[[bytes], tuple[bytes, Path]]:
    """signer(data): (detached signature, file of the public key), by a key that GnuPG made for this test."""
    gpg = shutil.which("gpg")
    if gpg is None or shutil.which("gpgv") is None:
        pytest.skip("there is no GnuPG on this machine")
    home = tmp_path / "gnupg"
    home.mkdir(mode=0o700)
    base = [gpg, "--homedir", str(home), "--batch", "--quiet", "--passphrase", "", "--pinentry-mode", "loopback"]
    made = subprocess.run([*base, "--quick-gen-key", "test", "ed25519", "sign", "never"], capture_output=True)
    if made.returncode:
        pytest.skip("GnuPG makes no key here")
    key = tmp_path / "key.asc"
    key.write_bytes(subprocess.run([*base, "--armor", "--export"], capture_output=True, check=True).stdout)

    def sign(data: bytes) -> tuple[bytes, Path]:
        done = subprocess.run([*base, "--armor", "--detach-sign"], input=data, capture_output=True, check=True)
        return done.stdout, key

    return sign


def test_signature_of_the_list_is_checked(
    store: Store, server: Server, signer: Callable[[bytes], tuple[bytes, Path]]
) -> None:
    sums = f"{hashlib.sha256(DISK).hexdigest()}  disk.img\n".encode()
    signature, key = signer(sums)
    source = Source(server.url("/disk.img"), server.url("/SUMS"), key=key)
    server.files |= {"/disk.img": DISK, "/SUMS": sums}
    with pytest.raises(NotGenuine, match="no signature beside"):
        pull(store, source, Wanted(NAME), Silent())
    server.files["/SUMS.gpg"] = signature
    assert pull(store, source, Wanted(NAME), Silent()).path.read_bytes() == DISK
    server.files["/SUMS"] = sums + b"\n"
    with pytest.raises(NotGenuine, match="is not good by the key"):
        pull(store, source, Wanted(NAME), Silent())


def test_signature_that_is_none(signer: Callable[[bytes], tuple[bytes, Path]]) -> None:
    _, key = signer(b"x")
    for signature in (b"", b"garbage", b"-----BEGIN PGP SIGNATURE-----\n\nAAAA\n-----END PGP SIGNATURE-----\n"):
        with pytest.raises(NotGenuine):
            check_signature(b"x", signature, key, "the list")


# --- compressed and packed --------------------------------------------------------------------------------------------

COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "xz": lzma.compress,
    "zst": zstandard.ZstdCompressor(write_checksum=True).compress,
    "bz2": bz2.compress,
}


@pytest.mark.parametrize("kind", COMPRESSORS)
def test_compressed_disk_is_unpacked_with_holes(store: Store, tmp_path: Path, kind: str) -> None:
    disk = b"\1" * 65536 + bytes(16 << 20) + b"\2" * 65536
    (tmp_path / f"big.{kind}").write_bytes(COMPRESSORS[kind](disk))
    image = import_file(store, tmp_path / f"big.{kind}", Wanted(NAME), Silent())
    assert image.path.stat().st_size == len(disk)
    assert image.path.stat().st_blocks * 512 <= 1 << 20
    assert image.path.read_bytes() == disk
    assert (tmp_path / f"big.{kind}").exists()


@pytest.mark.parametrize("kind", ["gz", "xz", "zst", "bz2"])
def test_two_streams_are_one_file(tmp_path: Path, kind: str) -> None:
    (tmp_path / "two").write_bytes(COMPRESSORS[kind](b"first") + COMPRESSORS[kind](b"second"))
    unpack(tmp_path / "two", tmp_path / "out", 1 << 20, lambda done, total: None)
    assert (tmp_path / "out").read_bytes() == b"firstsecond"


@pytest.mark.parametrize("kind", COMPRESSORS)
def test_damaged_compression_is_told_and_leaves_nothing(store: Store, tmp_path: Path, kind: str) -> None:
    good = COMPRESSORS[kind](os.urandom(200_000))
    for bad in (good[:-10], good[: len(good) // 2], good[:1000] + b"XXXX" + good[1004:]):
        (tmp_path / "bad").write_bytes(bad)
        with pytest.raises(ManorError, match="damaged"):
            import_file(store, tmp_path / "bad", Wanted(NAME), Silent())
        assert store.images() == []
    store.prune()
    assert nothing_left(store)


def test_bomb_is_bounded(tmp_path: Path) -> None:
    (tmp_path / "bomb").write_bytes(zlib.compress(bytes(50 << 20), 9, 31))
    with pytest.raises(HostError, match="larger than 1 MiB"):
        unpack(tmp_path / "bomb", tmp_path / "out", 1 << 20, lambda done, total: None)
    assert not (tmp_path / "out").exists()


def test_full_disk_while_unpacking_leaves_nothing(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*values: object) -> int:
        raise OSError(28, "No space left on device")

    (tmp_path / "disk.gz").write_bytes(gzip.compress(DISK))
    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(HostError, match="no room for it"):
        import_file(store, tmp_path / "disk.gz", Wanted(NAME), Silent())
    monkeypatch.undo()
    store.prune()
    assert nothing_left(store)


def tar_of(files: dict[str, bytes], compress: str = "") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return COMPRESSORS[compress](buffer.getvalue()) if compress else buffer.getvalue()


@pytest.mark.parametrize("compress", ["", "xz", "gz"])
def test_tar_around_one_disk(store: Store, tmp_path: Path, compress: str) -> None:
    (tmp_path / "cloud").write_bytes(tar_of({"disk.raw": DISK, "README": b"hello"}, compress))
    assert import_file(store, tmp_path / "cloud", Wanted(NAME), Silent()).path.read_bytes() == DISK


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "it holds none"),
        ({"a": b"x"}, "it holds none"),
        ({"a.img": DISK, "b.raw": DISK}, r"it holds 2 \(a.img, b.raw\)"),
    ],
)
def test_tar_without_or_with_several_disks(store: Store, tmp_path: Path, files: dict[str, bytes], message: str) -> None:
    (tmp_path / "x.tar").write_bytes(tar_of({**files, "z": b""}))
    with pytest.raises(ConfigError, match=message):
        import_file(store, tmp_path / "x.tar", Wanted(NAME), Silent())


@pytest.mark.parametrize("metadata", [{"provider": "libvirt"}, {"disks": [{"path": "box_0.img"}]}])
def test_vagrant_box(store: Store, tmp_path: Path, metadata: dict[str, object]) -> None:
    name = "box_0.img" if "disks" in metadata else "box.img"
    files = {"./metadata.json": json.dumps(metadata).encode(), "./Vagrantfile": b"", f"./{name}": DISK}
    (tmp_path / "x.box").write_bytes(tar_of(files, "gz"))
    image = import_file(store, tmp_path / "x.box", Wanted(NAME), Silent())
    assert image.path.read_bytes() == DISK
    assert image.metadata.user == "vagrant"


# --- OCI --------------------------------------------------------------------------------------------------------------


def oci(layers: list[bytes], architecture: str = "amd64", nested: bool = False) -> dict[str, bytes]:
    """The files of a layout."""
    files = {"oci-layout": b'{"imageLayoutVersion":"1.0.0"}'}

    def blob(data: bytes) -> dict[str, object]:
        digest = hashlib.sha256(data).hexdigest()
        files[f"blobs/sha256/{digest}"] = data
        return {"digest": f"sha256:{digest}", "size": len(data)}

    manifest = blob(json.dumps({"schemaVersion": 2, "layers": [blob(layer) for layer in layers]}).encode())
    manifest |= {"mediaType": "application/vnd.oci.image.manifest.v1+json", "platform": {"architecture": architecture}}
    if nested:
        manifest = blob(json.dumps({"manifests": [manifest]}).encode())
        manifest["mediaType"] = "application/vnd.oci.image.index.v1+json"
    files["index.json"] = json.dumps({"schemaVersion": 2, "manifests": [manifest]}).encode()
    return files


@pytest.mark.parametrize("compress", ["", "gz", "zst"])
@pytest.mark.parametrize("nested", [False, True])
def test_container_disk(store: Store, tmp_path: Path, compress: str, nested: bool) -> None:
    layers = [tar_of({"etc/passwd": b"x"}, compress), tar_of({"disk/debian.qcow2": DISK}, compress)]
    (tmp_path / "image.tar").write_bytes(tar_of(oci(layers, nested=nested)))
    assert import_file(store, tmp_path / "image.tar", Wanted(NAME), Silent()).path.read_bytes() == DISK


def test_layout_in_a_folder(store: Store, tmp_path: Path) -> None:
    for name, data in oci([tar_of({"./disk/a.img": DISK})]).items():
        (tmp_path / "layout" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "layout" / name).write_bytes(data)
    assert import_file(store, tmp_path / "layout", Wanted(NAME), Silent()).path.read_bytes() == DISK
    with pytest.raises(ConfigError, match="no OCI layout"):
        import_file(store, tmp_path, Wanted(NAME), Silent())


@pytest.mark.parametrize("whiteout", ["disk/.wh.old.img", "disk/.wh..wh..opq", ".wh.disk"])
def test_disk_that_a_layer_above_removed_does_not_count(store: Store, tmp_path: Path, whiteout: str) -> None:
    layers = [tar_of({"disk/old.img": b"o" * 512}), tar_of({whiteout: b"", "disk/new.img": DISK})]
    (tmp_path / "image.tar").write_bytes(tar_of(oci(layers)))
    assert import_file(store, tmp_path / "image.tar", Wanted(NAME), Silent()).path.read_bytes() == DISK


def test_damaged_layer_is_found(store: Store, tmp_path: Path) -> None:
    files = oci([tar_of({"disk/a.img": DISK})])
    layer = max(files, key=lambda name: len(files[name]))
    files[layer] = files[layer][:-1] + b"!"
    (tmp_path / "image.tar").write_bytes(tar_of(files))
    with pytest.raises(ProtocolError, match="damaged"):
        import_file(store, tmp_path / "image.tar", Wanted(NAME), Silent())


def test_image_for_another_machine(store: Store, tmp_path: Path) -> None:
    (tmp_path / "image.tar").write_bytes(tar_of(oci([tar_of({"disk/a.img": DISK})], "arm64")))
    with pytest.raises(ConfigError, match="nothing for amd64"):
        import_file(store, tmp_path / "image.tar", Wanted(NAME), Silent())


@pytest.mark.parametrize(
    "index",
    [
        {}, [], {"manifests": 7}, {"manifests": [7]}, {"manifests": [{}]}, {"manifests": [{"digest": "md5:1"}]},
        {"manifests": [{"digest": "sha256:../../etc/passwd"}]}, {"manifests": [{"digest": "sha256:" + "0" * 64}]},
    ],
)  # fmt: skip
def test_index_that_is_none(store: Store, tmp_path: Path, index: object) -> None:
    (tmp_path / "image.tar").write_bytes(tar_of({"index.json": json.dumps(index).encode()}))
    with pytest.raises(ManorError):
        import_file(store, tmp_path / "image.tar", Wanted(NAME), Silent())


# --- formats ----------------------------------------------------------------------------------------------------------


def qemu_img(*words: str) -> None:
    if QEMU_IMG is None:
        pytest.skip("there is no qemu-img on this machine")
    subprocess.run([QEMU_IMG, *words], check=True, capture_output=True)


@pytest.mark.parametrize(("made", "kept"), [("raw", "raw"), ("qcow2", "qcow2"), ("vmdk", "qcow2"), ("vdi", "qcow2")])
def test_disk_of_another_format_is_kept_as_one_that_can_be_cloned(
    store: Store, tmp_path: Path, made: str, kept: str
) -> None:
    (tmp_path / "raw").write_bytes(DISK)
    qemu_img("convert", "-O", made, str(tmp_path / "raw"), str(tmp_path / "image"))
    image = import_file(store, tmp_path / "image", Wanted(NAME), Silent())
    assert image.metadata.format == kept
    qemu_img("compare", str(tmp_path / "raw"), str(image.path))


def test_pulled_image_that_names_a_file_of_this_host_is_refused(store: Store, server: Server, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"s" * 65536)
    qemu_img("create", "-f", "qcow2", "-b", str(tmp_path / "secret"), "-F", "raw", str(tmp_path / "evil"))
    server.files["/evil.qcow2"] = (tmp_path / "evil").read_bytes()
    lines = (
        "# Disk DescriptorFile", "version=1", "CID=1", "parentCID=ffffffff", 'createType="monolithicFlat"',
        f'RW 128 FLAT "{tmp_path}/secret" 0', "",
    )  # fmt: skip
    server.files["/evil.vmdk"] = "\n".join(lines).encode()
    for path in ("/evil.qcow2", "/evil.vmdk"):
        with pytest.raises(ConfigError, match="refers to another file|in another folder"):
            fetch(store, server, path)
    assert store.images() == []


def test_own_image_with_a_backing_file_becomes_one(store: Store, tmp_path: Path) -> None:
    (tmp_path / "base").write_bytes(DISK)
    qemu_img("create", "-f", "qcow2", "-b", str(tmp_path / "base"), "-F", "raw", str(tmp_path / "top"))
    image = import_file(store, tmp_path / "top", Wanted(NAME), Silent())
    (tmp_path / "base").rename(tmp_path / "moved")
    qemu_img("compare", str(tmp_path / "moved"), str(image.path))


def test_file_too_small_for_a_disk(store: Store, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"hello")
    with pytest.raises(ConfigError, match="5 bytes, which is no disk"):
        import_file(store, tmp_path / "x", Wanted(NAME), Silent())


def test_file_that_is_not_there_to_import(store: Store, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        import_file(store, tmp_path / "none", Wanted(NAME), Silent())


# --- names ------------------------------------------------------------------------------------------------------------


def test_known_names_have_checksums_from_the_same_place() -> None:
    for name, source in KNOWN.items():
        assert parse_reference(name)
        assert source.url.startswith("https://")
        assert source.checksums.rpartition("/")[0] == source.url.rpartition("/")[0]
    assert KNOWN["debian"].checksums == "https://cloud.debian.org/images/cloud/bookworm/latest/SHA512SUMS"


def test_own_table_goes_before_the_known_names(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text(
        '[images]\ndebian = "http://127.0.0.1/d.img"\n'
        '"ours:1" = { url = "http://127.0.0.1/a/o.xz", checksums = "SUMS", key = "/k" }\n'
    )
    assert find_source(NAME, path) == Source("http://127.0.0.1/d.img")
    assert find_source(Reference("ours", "1"), path) == Source(
        "http://127.0.0.1/a/o.xz", "http://127.0.0.1/a/SUMS", "", Path("/k")
    )
    assert find_source(Reference("ubuntu"), path) == KNOWN["ubuntu"]
    with pytest.raises(ConfigError, match=r"nobody knows where the image arch is; known are debian, "):
        find_source(Reference("arch"), path)


@pytest.mark.parametrize(
    "text",
    ["[images", "images = 7", "[images]\na = 7", "[images]\na = {}", '[images]\na = { url = "x", b = "y" }', "\xff"],
)
def test_table_with_a_mistake_names_the_file(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.toml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match=str(path)):
        read_config(path)
