"""A domain's description as it is kept in memory: its text, and the few values that are asked for all the time.

The text is read again when more is wanted: a thousand documents as elements take many times the memory.
"""

from __future__ import annotations

import sys
import uuid as uuid_module
from dataclasses import dataclass
from typing import Final
from xml.etree import ElementTree

from manor.base.units import KiB
from manor.domain.xml import domain as domain_xml
from manor.domain.xml.domain import Domain
from manor.domain.xml.normal import normalise, secure


@dataclass(frozen=True, slots=True)
class Platform:
    """What a hypervisor puts into descriptions. emulator: path of the program that makes machines, for documents that
    name none. machine: the one that all get, None where users choose."""

    emulator: str
    machine: str | None = "pc"


@dataclass(frozen=True, slots=True)
class Definition:
    """One domain's description. memory, current: KiB."""

    text: str
    name: str
    uuid: bytes
    memory: int
    current: int
    vcpus: int
    max_vcpus: int
    os_type: str

    def read(self) -> Domain:
        """All of it."""
        return domain_xml.parse(self.text)


def definition_of(domain: Domain, text: str | None = None) -> Definition:
    """`domain`, which has a UUID, as it is kept. text: its document, where that is there already."""
    current = domain.memory if domain.current_memory is None else domain.current_memory
    return Definition(
        domain_xml.format(domain) if text is None else text,
        domain.name,
        uuid_module.UUID(domain.uuid).bytes,
        domain.memory // KiB,
        current // KiB,
        domain.current_vcpus or domain.vcpus,
        domain.vcpus,
        sys.intern(domain.os_type),
    )


def complete(text: str, platform: Platform) -> Domain:
    """A client's document, checked and completed. Raises ConfigError with the path of what is wrong."""
    return normalise(domain_xml.parse(text), emulator=platform.emulator, machine=platform.machine)


def read_kept(text: str, platform: Platform) -> Definition:
    """A document from the store: mostly as it was written, unless a user or an older version changed it. Raises
    ConfigError."""
    domain = domain_xml.parse(text)
    completed = normalise(domain, emulator=platform.emulator, machine=platform.machine)
    return definition_of(completed, text if completed == domain else None)


def recall(text: str) -> Definition | None:
    """What `definition_of` made of a document that it wrote itself; None if it is none. Twenty times as fast as
    `read_kept`: a daemon reads thousands at its start, and nothing in them has changed."""
    try:
        root = ElementTree.fromstring(text)
        vcpu = root.find("vcpu")
        if vcpu is None or root.tag != "domain":
            return None
        vcpus = int(vcpu.text or "")
        name, os_type = root.findtext("name"), root.findtext("os/type")
        memory, current = root.find("memory"), root.find("currentMemory")
        if not name or not os_type or memory is None or current is None:
            return None
        if (memory.get("unit"), current.get("unit")) != ("KiB", "KiB"):
            return None
        return Definition(
            text,
            name,
            uuid_module.UUID(root.findtext("uuid", "")).bytes,
            int(memory.text or ""),
            int(current.text or ""),
            int(vcpu.get("current", vcpus)),
            vcpus,
            sys.intern(os_type),
        )
    except (ElementTree.ParseError, ValueError, TypeError):
        return None


_SECRET: Final = "passwd"
"""Without this word no document has a secret."""


def without_secrets(text: str) -> str:
    """A document as one may read it who may not read secrets."""
    return domain_xml.format(secure(domain_xml.parse(text))) if _SECRET in text else text
