"""The default initramfs."""

from __future__ import annotations

import stat
import subprocess

import pytest

from manor.guests import cpio
from manor.guests.init_script import BANNER, INIT, PROMPT
from manor.guests.initramfs import build_initramfs, is_module, load_order, module_dependencies, module_name


def module(*needed: str) -> bytes:
    return b"\x7fELF\0alias=pci:x\0depends=" + ",".join(needed).encode() + b"\0intree=Y\0"


MODULES = {
    "virtio_pci": module("virtio", "virtio-ring"),
    "virtio": module("virtio_ring"),
    "virtio_ring": module(),
    "virtio_rng": module("rng_core", "virtio"),
}


def test_module_names() -> None:
    assert module_name("lib/modules/6.1/kernel/drivers/char/hw_random/virtio-rng.ko") == "virtio_rng"
    assert module_name("x/virtio_pci.ko.xz") == "virtio_pci"
    assert is_module("a/b.ko.zst")
    assert not is_module("boot/config")
    assert not is_module("a.kodak")


def test_dependencies() -> None:
    assert module_dependencies(MODULES["virtio_pci"]) == ["virtio", "virtio_ring"]
    assert module_dependencies(module()) == []
    assert module_dependencies(b"\x7fELF") == []


def test_load_order_has_dependencies_first_and_ignores_built_in_ones() -> None:
    order = load_order(["virtio_pci", "virtio_rng", "virtio_console"], MODULES)
    assert order == ["virtio_ring", "virtio", "virtio_pci", "virtio_rng"]


def test_load_order_survives_a_cycle() -> None:
    assert load_order(["a"], {"a": module("b"), "b": module("a")}) == ["b", "a"]


def test_contents() -> None:
    extra = {"/opt/tests/t1": (0o755, b"program"), "/etc/group": (0o600, b"mine")}
    archive = build_initramfs(b"BUSYBOX", MODULES, extra)
    entries = {entry.name: entry for entry in cpio.read_archive(archive)}
    assert entries["bin/busybox"].data == b"BUSYBOX"
    assert stat.S_IMODE(entries["init"].mode) == 0o755
    assert (entries["dev/console"].device, stat.S_ISCHR(entries["dev/console"].mode)) == ((5, 1), True)
    assert entries["lib/modules/order"].data.decode().split() == [
        "virtio_ring.ko",
        "virtio.ko",
        "virtio_pci.ko",
        "virtio_rng.ko",
    ]
    assert entries["opt/tests/t1"].data == b"program"
    assert entries["etc/group"].data == b"mine"
    names = list(entries)
    for name in names:
        for parent in [name[:index] for index, letter in enumerate(name) if letter == "/"]:
            assert stat.S_ISDIR(entries[parent].mode)
            assert names.index(parent) < names.index(name)


def test_output_is_deterministic() -> None:
    assert build_initramfs(b"B", MODULES) == build_initramfs(b"B", dict(reversed(MODULES.items())))


def test_without_modules() -> None:
    entries = {entry.name: entry for entry in cpio.read_archive(build_initramfs(b"B", {}))}
    assert entries["lib/modules/order"].data == b""


def test_init_is_valid_shell() -> None:
    assert BANNER in INIT
    assert PROMPT in INIT
    done = subprocess.run(["sh", "-n"], input=INIT, text=True, capture_output=True, timeout=10, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("command", ["mount -t proc", "insmod", "setsid cttyhack sh", "poweroff -f"])
def test_init_does_its_duties(command: str) -> None:
    assert command in INIT
