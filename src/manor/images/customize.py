"""What makes a configured system this image: names, accounts, keys, network, console, growth.

Everything here is an edit of one file by its own contents, or a file of its own; so the configured tree is kept once
and passes through these edits while the disk is written.

Source: passwd(5), shadow(5), group(5), fstab(5), systemd.network(5), repart.d(5), machine-id(5), sshd(8), hosts(5).
"""

from __future__ import annotations

import re
import stat
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from manor.base.errors import ConfigError
from manor.fs.entry import NS_PER_S, Entry, directory, regular, symlink

FIRST_UID: Final = 1000
_USER: Final = re.compile(r"[a-z_][a-z0-9_-]{0,31}")
_HOSTNAME: Final = re.compile(r"[a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?")
_HASH: Final = re.compile(r"\$[a-z0-9]+\$[^\s:]+")
_KEY: Final = re.compile(r"(ssh-[a-z0-9-]+|ecdsa-sha2-[a-z0-9-]+|sk-[a-z0-9@.-]+) [A-Za-z0-9+/=]+( .*)?")
_UNITS: Final = "etc/systemd/system"
_DAY_S: Final = 86400
_MAX_FILE: Final = 1 << 20
"""Files that are edited are read whole; none is larger."""

Edit = Callable[[bytes], bytes]


@dataclass(frozen=True, slots=True)
class Settings:
    """What a user wants of an image.

    user: an account that may use sudo; None: only root. password_hash: by crypt(5), for that account or root; "" lets
    it in without a password on a console; None: no password fits. ssh_keys: lines of authorized_keys for it.
    """

    hostname: str = "debian"
    user: str | None = None
    password_hash: str | None = None
    ssh_keys: tuple[str, ...] = ()
    locale: str = "C.UTF-8"


@dataclass(frozen=True, slots=True)
class Identity:
    """What a disk's parts are called by. esp_serial: the volume id of the EFI system partition."""

    root: uuid.UUID
    esp_serial: int

    @property
    def esp_uuid(self) -> str:
        """As Linux shows it."""
        return f"{self.esp_serial >> 16:04X}-{self.esp_serial & 0xFFFF:04X}"


@dataclass(slots=True)
class Changes:
    """edits: by path. added: further entries, each after its directory."""

    edits: dict[str, Edit] = field(default_factory=dict)
    added: list[Entry] = field(default_factory=list)


def check(settings: Settings) -> None:
    """Raises ConfigError for what cannot be, or for an image that nobody could log in to."""
    if not _HOSTNAME.fullmatch(settings.hostname):
        raise ConfigError("hostname", f"{settings.hostname!r} is not a host name: letters, digits and inner hyphens")
    if settings.user is not None and (not _USER.fullmatch(settings.user) or settings.user == "root"):
        raise ConfigError("user", f"{settings.user!r} is not a name for a new user")
    if settings.password_hash and not _HASH.fullmatch(settings.password_hash):
        raise ConfigError("password-hash", "this is no hash; make one with: openssl passwd -6")
    for key in settings.ssh_keys:
        if not _KEY.fullmatch(key):
            raise ConfigError("ssh-key", f"{key[:40]!r} is not a public key as ssh-keygen writes them")
    if settings.password_hash is None and not settings.ssh_keys:
        raise ConfigError(
            "", "nobody could log in to this image; give --ssh-key FILE, --password-hash HASH or --no-password"
        )


def changes(settings: Settings, identity: Identity, cmdline: str, sources: str, epoch: int) -> Changes:
    """Everything that turns the configured tree into the image. epoch: seconds since 1970, for what is dated.

    sources: the package sources in deb822 style.
    """
    now = epoch * NS_PER_S
    result = Changes()
    day = epoch // _DAY_S
    account = settings.user or "root"
    hashed = "*" if settings.password_hash is None else settings.password_hash
    home = "root" if settings.user is None else f"home/{settings.user}"
    owner = 0 if settings.user is None else FIRST_UID
    if settings.user is None:
        result.edits["etc/shadow"] = lambda data: _with_password(data, "root", hashed, day)
    else:
        _add_user(result, settings.user, hashed, day, now)
    if settings.ssh_keys:
        keys = "".join(f"{key}\n" for key in settings.ssh_keys).encode()
        result.added += [
            Entry(f"{home}/.ssh", stat.S_IFDIR | 0o700, owner, owner, now),
            Entry(f"{home}/.ssh/authorized_keys", stat.S_IFREG | 0o600, owner, owner, now, keys),
        ]
    if account != "root":
        result.added.append(
            regular("etc/sudoers.d/image", f"{account} ALL=(ALL:ALL) NOPASSWD: ALL\n".encode(), 0o440, mtime=now)
        )
    files = {
        "etc/hostname": f"{settings.hostname}\n",
        "etc/hosts": f"127.0.0.1\tlocalhost\n127.0.1.1\t{settings.hostname}\n"
        "::1\tlocalhost ip6-localhost ip6-loopback\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n",
        "etc/fstab": f"UUID={identity.root} / ext4 defaults,discard,errors=remount-ro,x-systemd.growfs 0 1\n"
        f"UUID={identity.esp_uuid} /boot/efi vfat umask=0077,noauto,x-systemd.automount,"
        "x-systemd.idle-timeout=1min 0 0\n",
        # Empty: the machine makes one at its first boot, and keeps it.
        "etc/machine-id": "",
        "etc/default/locale": f"LANG={settings.locale}\n",
        "etc/kernel/cmdline": f"{cmdline}\n",
        "etc/kernel/entry-token": "debian\n",
        "etc/systemd/network/80-ethernet.network": "[Match]\nKind=!*\nType=ether\n\n[Network]\nDHCP=yes\n\n"
        "[DHCPv4]\nUseDomains=true\n",
        "etc/repart.d/10-esp.conf": "[Partition]\nType=esp\n",
        # The last partition: it takes what the disk has more than the image.
        "etc/repart.d/20-root.conf": "[Partition]\nType=root\n",
        "etc/apt/sources.list.d/debian.sources": sources,
        f"{_UNITS}/ssh-host-keys.service": _HOST_KEYS,
    }
    for path, text in files.items():
        result.added.append(regular(path, text.encode(), 0o644, mtime=now))
    for path in ("etc/repart.d", "etc/kernel", "boot/efi"):
        result.added.append(directory(path, mtime=now))
    for link, unit in _ENABLED.items():
        result.added.append(symlink(f"{_UNITS}/{link}", unit, mtime=now))
    result.added.sort(key=lambda entry: entry.path)
    return result


_HOST_KEYS: Final = """\
[Unit]
Description=This machine's own SSH host keys
ConditionPathExists=!/etc/ssh/ssh_host_ed25519_key
Before=ssh.service ssh.socket

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/bin/ssh-keygen -q -t ecdsa -N "" -C "" -f /etc/ssh/ssh_host_ecdsa_key
ExecStart=/usr/bin/ssh-keygen -q -t ed25519 -N "" -C "" -f /etc/ssh/ssh_host_ed25519_key

[Install]
WantedBy=ssh.service
"""
_NETWORKD: Final = "/lib/systemd/system/systemd-networkd"
_ENABLED: Final = {
    "ssh.service.wants/ssh-host-keys.service": "/etc/systemd/system/ssh-host-keys.service",
    "dbus-org.freedesktop.network1.service": f"{_NETWORKD}.service",
    "multi-user.target.wants/systemd-networkd.service": f"{_NETWORKD}.service",
    "sockets.target.wants/systemd-networkd.socket": f"{_NETWORKD}.socket",
    "network-online.target.wants/systemd-networkd-wait-online.service": f"{_NETWORKD}-wait-online.service",
    # A virtual machine has no screen unless someone gives it one; its console is the serial line.
    "getty.target.wants/getty@tty1.service": "/lib/systemd/system/getty@.service",
}


def apply(entries: Iterable[Entry], wanted: Changes) -> Iterator[Entry]:
    """The entries with the changes made. Those that replace come in the place of what they replace, new ones behind.

    Raises ConfigError if a file to edit is not there.
    """
    replaced: Mapping[str, Entry] = {entry.path: entry for entry in wanted.added}
    seen: set[str] = set()
    edited: set[str] = set()
    for entry in entries:
        seen.add(entry.path)
        if entry.path in wanted.edits:
            edited.add(entry.path)
            with entry.open() as stream:
                data = stream.read(min(entry.size, _MAX_FILE))
            entry = Entry(
                entry.path, entry.mode, entry.uid, entry.gid, entry.mtime, wanted.edits[entry.path](data),
                xattrs=entry.xattrs,
            )  # fmt: skip
        elif entry.path in replaced and not stat.S_ISDIR(entry.mode):
            entry = replaced[entry.path]
        yield entry
    if missing := wanted.edits.keys() - edited:
        raise ConfigError("", f"the built system has no {min(missing)}")
    for entry in wanted.added:
        if entry.path in seen:
            continue
        parents = entry.path.split("/")[:-1]
        for depth in range(1, len(parents) + 1):
            path = "/".join(parents[:depth])
            if path not in seen:
                seen.add(path)
                yield replaced.get(path) or directory(path, mtime=entry.mtime)
        seen.add(entry.path)
        yield entry


def _add_user(result: Changes, user: str, hashed: str, day: int, now: int) -> None:
    """An account with a home, in the group that may use sudo."""
    number = FIRST_UID
    result.edits |= {
        "etc/passwd": lambda data: data + f"{user}:x:{number}:{number}::/home/{user}:/bin/bash\n".encode(),
        "etc/group": lambda data: _with_member(data, "sudo", user) + f"{user}:x:{number}:\n".encode(),
        "etc/shadow": lambda data: data + f"{user}:{hashed}:{day}:0:99999:7:::\n".encode(),
        "etc/gshadow": lambda data: _with_member(data, "sudo", user) + f"{user}:!::\n".encode(),
        "etc/subuid": lambda data: data + f"{user}:100000:65536\n".encode(),
        "etc/subgid": lambda data: data + f"{user}:100000:65536\n".encode(),
    }
    result.added += [
        Entry(f"home/{user}", stat.S_IFDIR | 0o755, number, number, now),
        *(
            Entry(f"home/{user}/{name}", stat.S_IFREG | 0o644, number, number, now, text)
            for name, text in ((".profile", _PROFILE),)
        ),
    ]


_PROFILE: Final = b'# Read by login shells.\n[ -n "$BASH_VERSION" ] && [ -f ~/.bashrc ] && . ~/.bashrc\n'


def _with_password(data: bytes, user: str, hashed: str, day: int) -> bytes:
    """shadow(5) with another password for a user who is there."""
    lines = data.decode().splitlines(keepends=True)
    for number, line in enumerate(lines):
        fields = line.split(":")
        if fields[0] == user:
            lines[number] = ":".join([user, hashed, str(day), *fields[3:]])
    return "".join(lines).encode()


def _with_member(data: bytes, group: str, user: str) -> bytes:
    """group(5) or gshadow(5) with a further member of a group."""
    lines = data.decode().splitlines()
    for number, line in enumerate(lines):
        if line.startswith(f"{group}:"):
            lines[number] = line + (user if line.endswith(":") else f",{user}")
    return "".join(f"{line}\n" for line in lines).encode()
