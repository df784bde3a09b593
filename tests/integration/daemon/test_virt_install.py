"""The real virt-install, unchanged: what it would define, and guests that boot to their prompt."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from manor.base.errors import ConfigError, HostError
from manor.domain.xml import domain as domain_xml
from manor.guests.default import DefaultGuest, default_guest
from manor.guests.progress import Silent
from manor.testing.daemon import DaemonProcess


@pytest.fixture
def install(daemon: DaemonProcess, place: Path) -> Iterator[Install]:
    if shutil.which("virt-install") is None:
        pytest.skip("there is no virt-install here (virtinst)")
    yield Install(daemon, place)
    for name in daemon.virsh("list", "--name", "--all").split():
        daemon.virsh("destroy", name, check=False)
        daemon.virsh("undefine", name, check=False)


class Install:
    """virt-install with a home of its own."""

    def __init__(self, daemon: DaemonProcess, place: Path) -> None:
        self.daemon, self.place = daemon, place

    def __call__(self, *options: str, seconds: float = 120, check: bool = True) -> str:
        done = subprocess.run(
            ["virt-install", "--connect", self.daemon.uri(), "--osinfo", "linux2020", "--graphics", "none",
             "--noautoconsole", *options],
            capture_output=True, text=True, timeout=seconds, check=False, stdin=subprocess.DEVNULL,
            env={**os.environ, "HOME": str(self.place), "XDG_CACHE_HOME": str(self.place)},
        )  # fmt: skip
        if check:
            assert done.returncode == 0, done.stdout + done.stderr + self.daemon.log
        return done.stdout + done.stderr

    def said(self, name: str, word: bytes, seconds: float = 90) -> None:
        """Wait until the guest says it on its console."""
        uuid = self.daemon.virsh("domuuid", name)
        log = self.daemon.root / "state" / "run" / uuid / "console.log"
        limit = time.monotonic() + seconds
        while word not in (log.read_bytes() if log.exists() else b""):
            assert time.monotonic() < limit, log.read_bytes()[-2000:] if log.exists() else "no log"
            time.sleep(0.2)


def test_what_it_would_define_is_what_can_be_had(install: Install, place: Path) -> None:
    disk = place / "p.qcow2"
    xml = install(
        "--import", "--name", "p", "--memory", "256", "--vcpus", "2", "--disk", f"path={disk},format=qcow2,size=1",
        "--network", "network=default", "--print-xml", "--dry-run",
    )  # fmt: skip
    document = domain_xml.parse(xml)
    assert (document.name, document.vcpus, document.memory) == ("p", 2, 256 << 20)
    assert not disk.exists()
    path = place / "p.xml"
    path.write_text(xml)
    install.daemon.virsh("define", str(path))
    assert "p" in install.daemon.virsh("list", "--all", "--name").split()


def test_a_medium_with_nothing_to_boot_is_refused_in_words(install: Install, place: Path) -> None:
    medium = place / "empty.iso"
    medium.write_bytes(bytes(1 << 20))
    said = install(
        "--cdrom", str(medium), "--name", "c", "--memory", "128", "--disk", "none", "--network", "none", check=False
    )
    assert "kernel" in said, said
    assert "c" not in install.daemon.virsh("list", "--all", "--name").split()


@pytest.fixture
def guest() -> DefaultGuest:
    try:
        return default_guest(Silent(), "cloud")
    except (ConfigError, HostError) as error:
        pytest.skip(f"the guest cannot be had: {error}")


@pytest.mark.slow
@pytest.mark.guest
def test_an_import_boots_to_its_prompt(install: Install, guest: DefaultGuest) -> None:
    """With a new disk in a pool that virt-install makes itself."""
    disk = install.place / "i.qcow2"
    install(
        "--import", "--name", "i", "--memory", "192", "--disk", f"path={disk},format=qcow2,size=1",
        "--network", "network=default",
        "--boot", f"kernel={guest.kernel},initrd={guest.initrd},kernel_args={guest.cmdline}",
    )  # fmt: skip
    install.said("i", b"Manor: Linux is up")
    assert disk.exists()
    assert "10.0.2." in install.daemon.virsh("domifaddr", "i") or install.daemon.virsh("domiflist", "i")
    state = install.daemon.virsh("domstate", "i", "--reason")
    assert state == "running (booted)"


@pytest.mark.slow
@pytest.mark.guest
def test_an_installation_from_a_tree_boots_its_kernel(install: Install, guest: DefaultGuest) -> None:
    """--location with a kernel and an initrd in it: virt-install fetches both and starts the installer with them."""
    tree = install.place / "tree"
    tree.mkdir()
    for source, name in ((guest.kernel, "vmlinuz"), (guest.initrd, "initrd.gz")):
        shutil.copy(source, tree / name)
    install(
        "--location", f"{tree},kernel=vmlinuz,initrd=initrd.gz", "--extra-args", guest.cmdline, "--name", "l",
        "--memory", "192", "--disk", f"path={install.place / 'l.qcow2'},format=qcow2,size=1", "--network", "none",
        "--wait", "0",
    )  # fmt: skip
    install.said("l", b"Manor: Linux is up")
