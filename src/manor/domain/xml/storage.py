"""The documents of storage pools and volumes.

Source: libvirt, "Storage pool and volume XML format", https://libvirt.org/formatstorage.html.
"""

# Declarations are tables, laid out by hand.
# fmt: off
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from manor.base.errors import ConfigError
from manor.domain import names
from manor.domain.names import DOMAIN_NAME_RULE, DOMAIN_NAMES
from manor.domain.xml import checker, reader, tree, writer
from manor.domain.xml.property import Element, Finding, note, part, prop
from manor.domain.xml.values import YES, Choice, Integer, Kind, Present, Size, Text, Uuid, ignored, refused

POOL = "pool"
VOLUME = "volume"
_NAME = Text(255, DOMAIN_NAMES, DOMAIN_NAME_RULE)
_PATH = Text(4096)
_BYTES = Size("bytes", "bytes")
_LABEL = Text(4096)


class Mode(Kind[int]):
    """Permission bits, in octal."""

    def read(self, text: str, unit: str | None = None) -> int:
        text = text.strip()
        if not text or len(text) > 6 or not set(text) <= set("01234567"):
            raise ValueError(f"{text[:20]!r} are no permission bits; write them in octal, like 0644")
        number = int(text, 8)
        if number > 0o7777:
            raise ValueError(f"{text} is more than 07777, all permission bits together")
        return number

    def show(self, value: int) -> str:
        return f"{value:04o}"

    def describe(self) -> str:
        return "permission bits, octal"


@dataclass(frozen=True, slots=True, kw_only=True)
class Permissions(Element):
    """Owner and mode of a folder or file."""

    mode: int | None = prop("mode", Mode(), "permission bits")
    owner: int | None = prop("owner", Integer(-1, (1 << 32) - 1), "user ID; -1 for the service's",
                             verdict=ignored("files belong to the service's user"))
    group: int | None = prop("group", Integer(-1, (1 << 32) - 1), "group ID; -1 for the service's",
                             verdict=ignored("files belong to the service's group"))
    label: str | None = prop("label", _LABEL, "security label", verdict=ignored("labels are left alone"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool(Element):
    """A storage pool: a folder with images."""

    type: str = prop("@type", Choice("dir", judged=dict.fromkeys(
        ("fs", "netfs", "logical", "disk", "iscsi", "iscsi-direct", "scsi", "mpath", "rbd", "sheepdog", "gluster",
         "zfs", "vstorage"), refused("pools are folders", "mount it, and use type='dir' with that folder"))),
        "what the pool is", required=True)
    name: str = prop("name", _NAME, "what others call it", required=True)
    uuid: str | None = prop("uuid", Uuid(), "identity; generated if it is missing")
    capacity: int | None = prop("capacity", _BYTES, "size of the file system; written by the service")
    allocation: int | None = prop("allocation", _BYTES, "what is used; written by the service")
    available: int | None = prop("available", _BYTES, "what is free; written by the service")
    has_source: bool = prop("source", Present(), "where the pool is from; a folder needs nothing there", default=False)
    path: str | None = prop("target/path", _PATH, "the folder")
    permissions: Permissions | None = part("target/permissions", Permissions, "owner and mode of the folder")

    NOTES = (
        note("features", "copy on write for whole pools", ignored("images are copied by reference where that works")),
        note("refresh", "how sizes are found", ignored("they are those of the files")),
        *(note(f"source/{name}", doc, ignored("a folder needs no source")) for name, doc in (
            ("host", "server"), ("dir", "folder of the server"), ("device", "device"), ("format", "kind of the source"),
            ("name", "name of the source"), ("adapter", "adapter"), ("auth", "log-in"), ("vendor", "maker"),
            ("product", "product"), ("initiator", "name of the initiator"), ("protocol", "version of the protocol"))),
        note("target/encryption", "encryption", refused("encrypted volumes are not made", "remove <encryption>")),
        note("fs:mount_opts", "options of mount", ignored("nothing is mounted")),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Timestamps(Element):
    """Times of the file, in seconds since 1970 with a fraction; written by the service."""

    atime: str | None = prop("atime", Text(64), "last read")
    mtime: str | None = prop("mtime", Text(64), "last change of the contents")
    ctime: str | None = prop("ctime", Text(64), "last change of the file")
    btime: str | None = prop("btime", Text(64), "birth")


_FORMATS = Choice("raw", "qcow2", "vmdk", "vdi", "vhdx", "vpc", "dir", "iso", "unknown", judged=dict.fromkeys(
    ("cow", "qcow", "qed", "bochs", "cloop", "fat", "ext2", "ext3", "ext4", "vhd", "xfs", "auto", "none", "lvm2",
     "ploop"),
    refused("images of this format are not made", "use raw or qcow2")))


@dataclass(frozen=True, slots=True, kw_only=True)
class BackingStore(Element):
    """The image below."""

    path: str | None = prop("path", _PATH, "path of the image")
    format: str | None = prop("format/@type", _FORMATS, "its format")
    permissions: Permissions | None = part("permissions", Permissions, "owner and mode of the file")
    timestamps: Timestamps | None = part("timestamps", Timestamps, "times of the file")


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume(Element):
    """A volume: an image in a pool."""

    type: str | None = prop("@type", Choice("file", "dir", "block", "network", "netdir"),
                            "kind of volume; written by the service")
    name: str = prop("name", Text(255, r"(?!\.{1,2}$)[^/\x00-\x1f]+", "the name of a file"), "name of the file",
                     required=True)
    key: str | None = prop("key", _PATH, "identity: the path; written by the service")
    capacity: int | None = prop("capacity", _BYTES, "size that a guest sees")
    allocation: int | None = prop("allocation", _BYTES, "space that is taken at once")
    physical: int | None = prop("physical", _BYTES, "size of the file; written by the service")
    path: str | None = prop("target/path", _PATH, "path of the file; written by the service")
    format: str | None = prop("target/format/@type", _FORMATS, "format; raw if it is missing")
    permissions: Permissions | None = part("target/permissions", Permissions, "owner and mode of the file")
    timestamps: Timestamps | None = part("target/timestamps", Timestamps, "times of the file")
    compat: str | None = prop("target/compat", Choice("0.10", "1.1"), "version of qcow2")
    cluster_size: int | None = prop("target/clusterSize", _BYTES, "size of qcow2's clusters")
    backing: BackingStore | None = part("backingStore", BackingStore, "the image below")

    NOTES = (
        note("source", "where the volume is; written by the service", YES),
        note("target/nocow", "no copy on write under the file", ignored("the file system decides")),
        note("target/features", "features of qcow2", ignored("new images have the features of version 3")),
        note("target/encryption", "encryption", refused("encrypted volumes are not made", "remove <encryption>")),
    )


def normal_pool(pool: Pool, new_uuid: Callable[[], str] = names.new_uuid) -> Pool:
    """The definition as it is kept: without sizes, which are those of the folder. Raises ConfigError."""
    names.check_name(pool.name, POOL)
    path = pool.path or ""
    if not path.startswith("/"):
        raise ConfigError(f"{POOL}/target/path", f"{path!r} is no whole path; give one that starts with `/`")
    return replace(
        pool, uuid=pool.uuid or new_uuid(), capacity=None, allocation=None, available=None,
        path=path.rstrip("/") or "/",
    )


def with_sizes(pool: Pool, capacity: int, allocation: int, available: int) -> Pool:
    """What clients are shown. Bytes."""
    return replace(pool, capacity=capacity, allocation=allocation, available=available, has_source=True)


def parse(text: str) -> Pool:
    """A pool. Raises ConfigError with the path of what is wrong."""
    return reader.read_element(Pool, tree.read(text, POOL), POOL)


def format(pool: Pool) -> str:
    return tree.write(writer.write_element(pool, POOL))


def check(pool: Pool) -> list[Finding]:
    """What will not be as the document asks. Empty: all will."""
    return list(checker.findings(pool, POOL))


def parse_volume(text: str) -> Volume:
    """A volume. Raises ConfigError with the path of what is wrong."""
    return reader.read_element(Volume, tree.read(text, VOLUME), VOLUME)


def format_volume(volume: Volume) -> str:
    return tree.write(writer.write_element(volume, VOLUME))


def check_volume(volume: Volume) -> list[Finding]:
    """What will not be as the document asks. Empty: all will."""
    return list(checker.findings(volume, VOLUME))
