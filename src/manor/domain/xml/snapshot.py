"""The document of a domain's snapshot.

Source: libvirt, "Snapshot XML format", https://libvirt.org/formatsnapshot.html.
"""

# Declarations are tables, laid out by hand.
# fmt: off
from __future__ import annotations

from dataclasses import dataclass

from manor.domain.names import DOMAIN_NAME_RULE, DOMAIN_NAMES
from manor.domain.xml import checker, reader, tree, writer
from manor.domain.xml.property import Element, Finding, note, parts, prop, raw
from manor.domain.xml.tree import Node
from manor.domain.xml.values import YES, Choice, Integer, Text, refused

ROOT = "domainsnapshot"
_PATH = Text(4096)
_NAME = Text(255, DOMAIN_NAMES, DOMAIN_NAME_RULE)


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotDisk(Element):
    """What becomes of one disk."""

    name: str = prop("@name", _PATH, "target name of the disk, or path of its image", required=True)
    snapshot: str | None = prop("@snapshot", Choice("no", "internal", "external", judged={
        "manual": refused("snapshots are made by the service", "write internal or external")}),
        "whether, and where")
    type: str | None = prop("@type", Choice("file", judged=dict.fromkeys(
        ("block", "network"), refused("new images are files", "write type='file'"))), "what the new image is")
    driver: str | None = prop("driver/@type", Choice("qcow2", judged=dict.fromkeys(
        ("raw", "qed", "vmdk"), refused("an image over another is qcow2", "write type='qcow2'"))),
        "format of the new image")
    source: str | None = prop("source/@file", _PATH, "path of the new image")

    NOTES = (note("source", "the new image", YES),)


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot(Element):
    """A snapshot."""

    name: str | None = prop("name", _NAME, "its name; the time in seconds if it is missing")
    description: str | None = prop("description", Text(), "a text for people")
    state: str | None = prop("state", Choice("running", "paused", "shutoff", "disk-snapshot", "nostate", "blocked",
                                             "shutdown", "crashed", "pmsuspended"),
                             "state of the domain then; written by the service")
    parent: str | None = prop("parent/name", _NAME, "the snapshot before")
    creation_time: int | None = prop("creationTime", Integer(), "seconds since 1970; written by the service")
    memory: str | None = prop("memory/@snapshot", Choice("no", "internal", "external"), "where the memory goes")
    memory_file: str | None = prop("memory/@file", _PATH, "file of the memory")
    disks: tuple[SnapshotDisk, ...] = parts("disks/disk", SnapshotDisk, "what becomes of each disk")
    domain: Node | None = raw("domain", "the definition then, or only its <uuid>; written by the service")
    active: int | None = prop("active", Integer(0, 1), "whether it is the current one; only in redefinitions")

    NOTES = (
        note("inactiveDomain", "the definition for the next start; written by the service", YES),
        note("cookie", "what drivers keep; written by the service", YES),
        note("revertDisks", "images after a revert; written by the service", YES),
    )


def parse(text: str) -> Snapshot:
    """Raises ConfigError with the path of what is wrong."""
    return reader.read_element(Snapshot, tree.read(text, ROOT), ROOT)


def format(snapshot: Snapshot) -> str:
    return tree.write(writer.write_element(snapshot, ROOT))


def check(snapshot: Snapshot) -> list[Finding]:
    """What will not be as the document asks. Empty: all will."""
    return list(checker.findings(snapshot, ROOT))
