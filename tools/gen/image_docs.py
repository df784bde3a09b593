"""What is known of the commands of `manor image` beside their options, for tools/gen/command_docs.py."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Final

import click

from manor.backends.block.operations import CREATE_OPTIONS
from manor.cli.image.group import COMMANDS, image

FORMATS: Final = (
    ("raw", "the disk as it is; read and written"),
    ("qcow2", "QEMU's own format, version 2 and 3, with backing images and snapshots; read and written"),
    ("vmdk", "VMware: monolithicSparse, monolithicFlat, twoGbMaxExtentSparse, twoGbMaxExtentFlat, streamOptimized; "
     "read. Extents must be in the folder of the descriptor. ESX's COWD and SESPARSE are refused"),
    ("vdi", "VirtualBox: dynamic and fixed; read. Differencing images are refused"),
    ("vhdx", "Hyper-V: dynamic, fixed and differencing; read. A log that was not replayed is replayed in memory"),
    ("vpc", "VHD of Virtual PC and Hyper-V: dynamic and fixed; read. A fixed one needs -f vpc: it begins like a disk"),
)  # fmt: skip
ADDRESSES: Final = (
    ("FILE", "a file or a block device"),
    ("nbd://HOST:PORT/EXPORT", "an export of an NBD server; the port is 10809 if left out"),
    ("nbds://HOST/EXPORT", "the same inside TLS; ?tls-certificates=FOLDER names ca-cert.pem, and client-cert.pem and "
     "client-key.pem if the client must prove itself; ?tls-hostname=NAME is whom the certificate must name"),
    ("nbd+unix:///EXPORT?socket=PATH", "over a Unix socket; nbds+unix: inside TLS"),
    ("nbd:unix:PATH:exportname=EXPORT", "the same as QEMU writes it; nbd:HOST:PORT:exportname=EXPORT likewise"),
)  # fmt: skip
USUAL: Final = (("0", "done"), ("1", "an error; one sentence on standard error says which"), ("2", "wrong options"))

STATUSES: Final = {
    "check": (
        ("0", "no errors, or all were repaired"),
        ("1", "the check was not made, or not everywhere; wrong options"),
        ("2", "the image is damaged"),
        ("3", "space is wasted by leaks, and nothing else is wrong"),
        ("63", "the format has no structures to check"),
    ),
    "pull": (
        ("0", "the image is in the store"),
        ("1", "it could not be had, or is not what its checksum or signature says"),
        ("2", "wrong options, or a name that nobody knows"),
    ),
    "compare": (
        ("0", "the disks are equal"),
        ("1", "they differ"),
        ("2", "an image could not be opened or read; wrong options"),
    ),
}
"""Those that are not USUAL."""

SUMMARIES: Final = {
    name: text.rstrip(".")[:1].lower() + text.rstrip(".")[1:]
    for name, (target, text) in COMMANDS.items()
    if importlib.util.find_spec(target.partition(":")[0]) is not None
}

NOTES: Final[dict[str, tuple[str, ...]]] = {
    "build": (
        "The packages come from this machine's own package sources of that suite, through its apt, with lists of their "
        "own: the machine's packages and lists are not touched. An apt is needed, so the host is Debian or its like.",
        "Without root rights the packages are configured in a user namespace: newuidmap (package uidmap) and a range "
        "in /etc/subuid and /etc/subgid are needed. Where the machine allows none, a guest configures them, with the "
        "same result, in minutes.",
        "What is configured is kept in $XDG_CACHE_HOME/manor (by default ~/.cache/manor), by the packages' names, "
        "versions and checksums. Another image of the same packages takes seconds.",
        "At its first boot the machine makes its own machine-id and SSH host keys, and the last partition and its file "
        "system grow to the end of the disk; make the disk larger with `manor image resize`.",
        "The disk boots with `manor run --disk FILE`, and by UEFI firmware anywhere else.",
        "Without --output, and without a key or password, the image lets in whom Manor's own key lets in: `manor ssh`.",
    ),
    "pull": (
        "Known names are debian, debian:12, debian:13, ubuntu, ubuntu:24.04 and ubuntu:22.04: cloud images of the "
        "distributions, compared with the checksums beside them.",
        "[images] in $XDG_CONFIG_HOME/manor/config.toml (by default ~/.config/manor/config.toml) has more names, and "
        "goes before these: debian = \"URL\", or a table with url, checksums, signature and key. checksums and "
        "signature are relative to url.",
        "Lists of checksums are taken as sha256sum, sha512sum and BSD's tools write them. With a key, a signature is "
        "looked for under the list's name with .gpg, .asc, .sign or .sig behind it, and checked by gpgv.",
        "What it fetches is bounded by --max-size, by the room on the disk, and by five redirections to http and https "
        "alone. The variables http_proxy, https_proxy and no_proxy are heeded.",
        "The store is in $XDG_DATA_HOME/manor/images (by default ~/.local/share/manor/images). Raw and qcow2 images "
        "are kept as they are, all others become qcow2.",
        "An image that refers to another file is refused: what comes from elsewhere must not name files of this host.",
    ),
    "import": (
        "gzip, xz, zstd and bzip2 are undone, and tar files opened, as often as they are inside each other.",
        "The account of a Vagrant box is vagrant.",
        "Of an OCI image the manifest for amd64 is taken, and every layer is compared with its digest. A container's "
        "files become one ext4 file system on the whole disk; as they have no kernel, give one: manor run NAME "
        "--kernel FILE --initrd FILE --append 'root=/dev/vda rw'. With a kernel in /boot the disk gets partitions, "
        "and boots.",
    ),
    "list": ("USERS counts the images and disks of VMs that back on an image; the JSON names them.",),
    "tag": ("A name is small letters, digits and single . _ - between them; without a tag it is :latest.",),
    "rm": ("A digest can be shortened to its first 8 digits or more.",),
    "prune": ("A download that somebody is working on is left alone.",),
    "create": (
        "A format without -f is qcow2 for a name that ends in .qcow2 or with -b, and raw for the rest.",
        "The name of a backing image is relative to the folder of FILE, as it will be looked up later.",
        "A file that exists is not replaced without --force.",
    ),
    "info": (
        "disk size is what the file takes of the host; the file can be longer, with holes.",
        "The JSON has the names that qemu-img uses.",
    ),
    "check": (
        "The backing images are not looked at: check each one.",
        "Repairing changes the image. Copy an image that is damaged first, and repair the copy.",
    ),
    "convert": (
        "What reads as zeros is left out of the target where the format and the file system can.",
        "The source is not changed. While another program has it open for writing it is refused; -U copies it anyway, "
        "as a disk that is pulled out while the computer runs.",
        "A target that is a file is made beside its place or removed again if the copy fails; with -n it is written in "
        "place, and what was in it is lost from the start.",
    ),
    "compare": ("Disks of different sizes are equal if the rest of the longer one is zeros, but for -s.",),
    "resize": ("A guest that runs does not see the new size; resize images that are not in use.",),
    "commit": (
        "What was written is on the host's disk before the image is emptied, so that a crash loses nothing.",
        "The image below is made larger if it is smaller.",
    ),
    "rebase": ("The name of a backing image is relative to the folder of FILE.",),
    "map": (
        "depth 0 is FILE itself. zero without present: nobody has written there; zero with present: an image says that "
        "zeros are there.",
        "offset, or Mapped to, is a place in that image's file. Compressed parts, and disks on servers, have none.",
    ),
    "snapshot": (
        "Snapshots keep the disk only, not the memory of a machine.",
        "Only qcow2 images have them.",
    ),
    "compact": ("Without --rewrite the file may keep its length and get holes; `du` shows what it takes.",),
    "serve": (
        "A Unix socket is made with mode 600. A TCP port is open to whoever reaches the address, which is this host "
        "alone unless --bind says otherwise; use --tls-certificates with a ca-cert.pem where others can reach it.",
        "Each client can have 16 requests of up to 32 MiB under way. Clients beyond -e are turned away.",
        "Ctrl-C, or SIGTERM, ends it: requests under way are done, the images are flushed and closed.",
    ),
}


def command(name: str) -> click.Command:
    """The command `manor image NAME`."""
    module, _, attribute = COMMANDS[name][0].partition(":")
    found: click.Command = getattr(importlib.import_module(module), attribute)
    return found


def statuses(name: str) -> tuple[tuple[str, str], ...]:
    """(exit status, meaning) of a command."""
    return STATUSES.get(name, USUAL)


def group() -> click.Command:
    """The command `manor image`."""
    return image


def format_options(format_: str) -> tuple[tuple[str, str], ...]:
    """(option, meaning) of a format that images can be made in."""
    return tuple(CREATE_OPTIONS[format_].items())
