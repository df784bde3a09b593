"""The second stage: the packages' own scripts, which finish what unpacking began.

They expect to be root in the system that they configure. The script made here runs there as such: in a chroot of a
namespace of its own on this machine, or as the first process of a guest. Both leave the same tree.

Source: Debian Policy 6.5 (how scripts are called) and 9.3.3.2 (policy-rc.d), dpkg(1) (environment), deb-postinst(5).
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Final

from manor.fs.entry import NS_PER_S, Entry, directory, regular
from manor.images.unpack import Unpacked

SCRIPT: Final = "manor-second-stage"
"""The script's path in the new root."""
POLICY: Final = "usr/sbin/policy-rc.d"
DONE: Final = "manor: second stage done"
"""What the script prints last if all went well."""
CONFIGURING: Final = re.compile(r"^Setting up (\S+) ")

_FIRST: Final = "base-passwd"
"""Makes the users and groups that all other scripts expect."""
_EMPTY: Final = ("dev", "proc", "sys", "run", "tmp", "var/tmp", "var/cache/ldconfig", "var/log/apt")
"""Directories whose contents belong to a running system."""
_GONE: Final = re.compile(
    rf"{SCRIPT}|{POLICY}|etc/\.pwd\.lock|etc/(passwd|group|shadow|gshadow|subuid|subgid)-|etc/hostname"
    r"|etc/ssh/ssh_host_.*|var/lib/dbus/machine-id|var/lib/dpkg/(.*-old|lock.*|triggers/Lock)"
    r"|var/cache/debconf/.*-old|var/lib/systemd/(random-seed|catalog/.*)|var/log/.*\.log|boot/.*\.old-dkms|var/backups/.*"
    # Looks for LVM, of which an image has none.
    r"|etc/systemd/system/multi-user.target.wants/e2scrub_reap.service"
    r"|etc/machine-id|.*/__pycache__|var/cache/apt/.*\.bin"
)
"""Left behind by the scripts, and different at each run or wrong in another machine."""


def script(packages: Iterable[Unpacked], epoch: int) -> bytes:
    """The shell script that configures `packages`, in their order; prints what it does and ends with DONE."""
    lines = [
        "#!/bin/sh",
        "set -eu",
        "export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 TERM=dumb",
        "export DEBIAN_FRONTEND=noninteractive DEBCONF_NONINTERACTIVE_SEEN=true DEBCONF_NOWARNINGS=yes",
        f"export SOURCE_DATE_EPOCH={epoch} SYSTEMD_OFFLINE=1",
        "preinst() {",
        "    DPKG_MAINTSCRIPT_NAME=preinst DPKG_MAINTSCRIPT_PACKAGE=$1 DPKG_MAINTSCRIPT_ARCH=$2 \\",
        "    DPKG_MAINTSCRIPT_PACKAGE_REFCOUNT=1 DPKG_ADMINDIR=/var/lib/dpkg DPKG_ROOT= DPKG_RUNNING_VERSION=$4 \\",
        '    "/var/lib/dpkg/info/$3.preinst" install',
        "}",
    ]
    found = list(packages)
    version = next((package.version for package in found if package.name == "dpkg"), "0")
    # The package that makes root's account comes first; then as they were unpacked.
    for package in sorted(found, key=lambda each: each.name != _FIRST):
        if package.has_preinst:
            words = (package.name, package.architecture, package.script_name, version)
            lines.append("preinst " + " ".join(map(shlex.quote, words)))
    lines += [
        f"dpkg --force-unsafe-io --force-depends --configure {_FIRST}",
        "dpkg --force-unsafe-io --force-confold --configure -a",
        "audit=$(dpkg --audit)",
        'if [ -n "$audit" ]; then echo "$audit"; exit 1; fi',
        f"echo {shlex.quote(DONE)}",
        "",
    ]
    return "\n".join(lines).encode()


def additions(packages: Iterable[Unpacked], epoch: int, initramfs: str) -> list[Entry]:
    """What the second stage needs besides the packages. initramfs: by initramfs.conf(5)."""
    return [
        regular(SCRIPT, script(packages, epoch), 0o755),
        # Nothing is to be started: there is no init.
        regular(POLICY, b"#!/bin/sh\nexit 101\n", 0o755),
        # The hook that puts a checker of file systems into the initramfs asks here which one.
        regular("etc/fstab", b"/dev/disk/by-label/root / ext4 defaults 0 1\n"),
        directory("etc/initramfs-tools/conf.d"),
        regular("etc/initramfs-tools/conf.d/image", initramfs.encode()),
    ]


def is_kept(path: str) -> bool:
    """Whether a path of the configured root belongs into an image."""
    return path.rpartition("/")[0] not in _EMPTY and not _GONE.fullmatch(path)


def normalised(entries: Iterable[Entry], epoch: int) -> Iterator[Entry]:
    """The entries without what differs from one run to the next: times after `epoch` (seconds since 1970)."""
    newest = epoch * NS_PER_S
    for entry in entries:
        mtime = min(entry.mtime, newest) // NS_PER_S * NS_PER_S
        yield replace(entry, mtime=mtime)
