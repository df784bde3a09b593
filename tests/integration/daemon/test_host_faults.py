"""A full disk, a directory that cannot be written, damaged files, two daemons: said in a sentence, and nothing lost."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from manor.testing.daemon import DaemonProcess
from manor.testing.raw_client import RawClient, Refused, raw_client

URI = "manor:///session"
DOMAIN = """
<domain type='qemu'><name>{name}</name><memory unit='MiB'>64</memory><description>{words}</description>
<os><type arch='x86_64'>hvm</type></os>
<devices><disk type='file'><source file='/nowhere/a.img'/><target dev='vda' bus='virtio'/></disk></devices></domain>
"""


@pytest.fixture
def root() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="mgd") as folder:
        yield Path(folder)


def define(client: RawClient, name: str, words: str = "") -> object:
    return client.call("domain_define_xml", DOMAIN.format(name=name, words=words))


def names(client: RawClient) -> set[str]:
    return {each.name for each in client.call("connect_list_all_domains", 1, 0).domains}


class InNamespace(DaemonProcess):
    """A daemon that has a mount of its own: `mount` is a line of shell, run before it."""

    def __init__(self, root: Path, mount: str) -> None:
        super().__init__(root)
        user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
        shell = ["sh", "-c", f'{mount} && exec "$@"', "sh"]
        self.prefix = ["unshare", *user, "--mount", "--propagation", "private", *shell]


def need_mounts() -> None:
    try:
        done = subprocess.run(
            ["unshare", *([] if os.geteuid() == 0 else ["--user", "--map-root-user"]), "--mount", "true"],
            capture_output=True, check=False,
        )  # fmt: skip
    except FileNotFoundError:
        pytest.skip("there is no unshare here (util-linux)")
    if done.returncode:
        pytest.skip(f"no mount namespace can be made here: {done.stderr.decode().strip()}")


def test_a_full_disk_refuses_the_definition_and_keeps_all_others(root: Path) -> None:
    need_mounts()
    state = root / "state"
    state.mkdir()
    daemon = InNamespace(root, f"mount -t tmpfs -o size=600k tmpfs {state}")
    daemon.start()
    try:
        with raw_client(daemon.socket, URI) as client:
            defined = set()

            def fill() -> None:
                for number in range(1000):
                    define(client, f"d{number}", "x" * 4000)
                    defined.add(f"d{number}")

            with pytest.raises(Refused, match=r"writing the description of d\d+ in .*No space left.*nothing was chang"):
                fill()
            assert 5 < len(defined) < 300
            assert names(client) == defined
            first = client.call("domain_lookup_by_name", "d0")
            with pytest.raises(Refused, match="No space left"):  # a change needs room beside the old one
                define_again(client, first, "y" * 4000)
            assert names(client) == defined
            kept = client.call("domain_get_xml_desc", first, 0)
            assert client.call("domain_get_xml_desc", first, 0) == kept
            # What is undefined goes to the trash, for which there may be no room either.
            refusal = ""
            try:
                client.call("domain_undefine", first)
            except Refused as error:
                refusal = str(error)
            if refusal:
                assert "removing the description of d0: " in refusal
                assert "disk is full" in refusal
            else:
                defined.discard("d0")
            assert names(client) == defined
        inside = Path(f"/proc/{daemon.pid}/root{state}/domains")
        assert {path.stem for path in inside.glob("*.xml")} == defined
        assert not list(inside.glob(".*"))
    finally:
        assert daemon.end() == 0
    assert "Traceback" not in daemon.log


def define_again(client: RawClient, domain: object, words: str) -> None:
    from uuid import UUID

    name = f"<name>{domain.name}</name><uuid>{UUID(bytes=domain.uuid)}</uuid>"  # type: ignore[attr-defined]
    client.call("domain_define_xml", DOMAIN.format(name="?", words=words).replace("<name>?</name>", name))


def test_a_read_only_directory_is_named_at_the_start(root: Path) -> None:
    need_mounts()
    state = root / "state"
    state.mkdir()
    daemon = InNamespace(root, f"mount -t tmpfs -o ro tmpfs {state}")
    with pytest.raises(RuntimeError, match=f"manord: preparing the state directory in {state}: Read-only file system"):
        daemon.start()


def test_a_second_daemon_says_so_and_leaves(root: Path) -> None:
    daemon = DaemonProcess(root)
    daemon.start()
    try:
        other = subprocess.run(
            [sys.executable, "-m", "manor.daemon", "--state", str(root / "state"), "--socket", str(root / "other")],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert other.returncode == 75  # EX_TEMPFAIL: another has it
        assert f"{root}/state is in use by process {daemon.pid}; end that manord first" in other.stderr
        assert "Traceback" not in other.stderr
        with raw_client(daemon.socket, URI) as client:  # the first goes on
            define(client, "web1")
    finally:
        assert daemon.end() == 0


def test_a_damaged_definition_leaves_the_others_and_is_kept_aside(root: Path) -> None:
    daemon = DaemonProcess(root)
    daemon.start()
    with raw_client(daemon.socket, URI) as client:
        for name in ("whole", "torn", "zeros", "strange"):
            define(client, name)
    assert daemon.end() == 0
    folder = root / "state" / "domains"
    torn = (folder / "torn.xml").read_bytes()
    (folder / "torn.xml").write_bytes(torn[: len(torn) // 2])
    (folder / "zeros.xml").write_bytes(bytes(len(torn)))
    (folder / "strange.xml").write_text("<domain type='qemu'><name>strange</name><memory>much</memory></domain>")
    (folder / "twin.xml").write_bytes((folder / "whole.xml").read_bytes())
    (root / "state" / "networks" / "broken.xml").write_text("<network")
    daemon.start()
    try:
        with raw_client(daemon.socket, URI) as client:
            assert names(client) == {"whole"}
            define(client, "torn")  # the name is free, and the old file is not written over
            assert names(client) == {"whole", "torn"}
        kept = {path.name for path in folder.iterdir() if "damaged" in path.name}
        assert kept == {"torn.xml.damaged", "zeros.xml.damaged", "strange.xml.damaged", "twin.xml.damaged"}
        assert (folder / "torn.xml.damaged").read_bytes() == torn[: len(torn) // 2]
        for name in (*kept, "broken.xml.damaged"):
            assert f"it is kept as {root}/state" in daemon.log
            assert name in daemon.log
    finally:
        assert daemon.end() == 0
    assert "Traceback" not in daemon.log


def test_a_directory_of_a_newer_version_is_left_alone(root: Path) -> None:
    daemon = DaemonProcess(root)
    daemon.start()
    assert daemon.end() == 0
    (root / "state" / "format").write_text("7\n")
    before = sorted(path.name for path in (root / "state").iterdir())
    with pytest.raises(RuntimeError, match="has the format '7', and this manord knows 1: a newer version has used it"):
        daemon.start()
    assert sorted(path.name for path in (root / "state").iterdir()) == before
