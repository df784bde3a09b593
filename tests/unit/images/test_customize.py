"""What makes a configured system one's own, and the disk it goes to."""

from __future__ import annotations

import stat
import uuid

import pytest

from manor.base.errors import ConfigError
from manor.base.units import GiB, MiB
from manor.boot.disk import find_boot
from manor.fs.entry import Entry, directory, regular
from manor.fs.ext4.reader import Ext4Reader
from manor.fs.io import MemoryImage, SourceWindow
from manor.fs.partitions import read_partitions
from manor.fs.reading import list_directory, read_file, resolve
from manor.images.customize import Identity, Settings, apply, changes, check
from manor.images.disk import DiskPlan, write_disk

IDENTITY = Identity(uuid.UUID(int=5), 0x1234ABCD)
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIExample me@here"
ACCOUNTS = {
    "etc/passwd": b"root:x:0:0:root:/root:/bin/bash\n",
    "etc/group": b"root:x:0:\nsudo:x:27:\n",
    "etc/shadow": b"root:*:1:0:99999:7:::\n",
    "etc/gshadow": b"root:*::\nsudo:*::\n",
    "etc/subuid": b"",
    "etc/subgid": b"",
}


def system() -> list[Entry]:
    """The least that is customized."""
    return [
        directory(""), directory("etc"), directory("etc/ssh"), directory("boot"), directory("root", 0o700),
        *(regular(path, data, 0o640 if "shadow" in path else 0o644) for path, data in ACCOUNTS.items()),
        regular("etc/hostname", b"builder\n"), regular("boot/vmlinuz-6.1", b"kernel"),
        regular("boot/initrd.img-6.1", b"initrd"),
    ]  # fmt: skip


def customized(settings: Settings) -> dict[str, tuple[Entry, bytes]]:
    check(settings)
    wanted = changes(settings, IDENTITY, "root=UUID=5 ro", "Types: deb\n", 86400 * 100)
    found = {}
    for entry in apply(system(), wanted):
        assert entry.path not in found
        assert "/" not in entry.path or entry.path.rpartition("/")[0] in found
        assert isinstance(entry.data, bytes)
        found[entry.path] = (entry, entry.data)
    return found


def test_root_with_a_key() -> None:
    found = customized(Settings(ssh_keys=(KEY,)))
    assert found["etc/shadow"][1] == b"root:*:100:0:99999:7:::\n"
    entry, data = found["root/.ssh/authorized_keys"]
    assert (entry.uid, stat.S_IMODE(entry.mode), data) == (0, 0o600, KEY.encode() + b"\n")
    assert stat.S_IMODE(found["root/.ssh"][0].mode) == 0o700
    assert found["etc/passwd"][1] == ACCOUNTS["etc/passwd"]


def test_a_user_with_a_password() -> None:
    found = customized(Settings(hostname="here", user="me", password_hash="$6$salt$hash"))
    assert found["etc/passwd"][1].endswith(b"\nme:x:1000:1000::/home/me:/bin/bash\n")
    assert found["etc/group"][1] == b"root:x:0:\nsudo:x:27:me\nme:x:1000:\n"
    assert found["etc/shadow"][1] == b"root:*:1:0:99999:7:::\nme:$6$salt$hash:100:0:99999:7:::\n"
    assert found["etc/hostname"][1] == b"here\n"
    assert b"127.0.1.1\there\n" in found["etc/hosts"][1]
    assert found["home/me"][0].uid == 1000
    assert stat.S_IMODE(found["etc/sudoers.d/image"][0].mode) == 0o440
    assert stat.S_IMODE(found["etc/shadow"][0].mode) == 0o640


def test_file_systems_are_named_by_their_ids() -> None:
    text = customized(Settings(password_hash=""))["etc/fstab"][1].decode()
    assert f"UUID={IDENTITY.root} / ext4 " in text
    assert "UUID=1234-ABCD /boot/efi vfat " in text


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (Settings(), "nobody could log in"),
        (Settings(hostname="a b", password_hash=""), "not a host name"),
        (Settings(hostname="-a", password_hash=""), "not a host name"),
        (Settings(user="root", password_hash=""), "not a name for a new user"),
        (Settings(user="a:b", password_hash=""), "not a name for a new user"),
        (Settings(password_hash="secret"), "openssl passwd -6"),
        (Settings(password_hash="$6$a:b$c"), "openssl passwd -6"),
        (Settings(ssh_keys=("-----BEGIN OPENSSH PRIVATE KEY-----",)), "not a public key"),
    ],
)
def test_settings_that_cannot_be(settings: Settings, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check(settings)


def test_a_system_without_accounts_is_refused() -> None:
    wanted = changes(Settings(password_hash=""), IDENTITY, "", "", 0)
    with pytest.raises(ConfigError, match="has no etc/shadow"):
        list(apply([directory(""), directory("etc")], wanted))


def test_a_disk_that_boots_and_has_the_files() -> None:
    image = MemoryImage(1 * GiB)
    plan = DiskPlan(image.size, "name", 86400, "A system", "console=ttyS0")
    wanted = changes(Settings(password_hash=""), plan.identity, plan.cmdline, "", plan.created)
    write_disk(image, plan, apply(system(), wanted))
    boot = find_boot(image, "disk")
    assert (boot.kernel, boot.initrd, boot.title) == (b"kernel", b"initrd\0\0", "A system")
    assert boot.cmdline == f"root=UUID={plan.identity.root} ro console=ttyS0"
    root = read_partitions(image)[1]
    reader = Ext4Reader(SourceWindow(image, root.start, root.size))
    assert reader.uuid == str(plan.identity.root)
    assert read_file(reader, "/etc/hostname", 100) == b"debian\n"
    assert resolve(reader, "root").kind == "directory"
    assert "lost+found" in {node.name for node in list_directory(reader, "/")}


def test_disks_that_cannot_be() -> None:
    with pytest.raises(ConfigError, match="at least 1024 MiB"):
        write_disk(MemoryImage(0), DiskPlan(500 * MiB, "", 0, "", ""), [])
    image = MemoryImage(1 * GiB)
    with pytest.raises(ConfigError, match="has no kernel"):
        write_disk(image, DiskPlan(image.size, "", 0, "", ""), [directory("boot")])
