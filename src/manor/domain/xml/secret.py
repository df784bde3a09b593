"""The document of a secret.

Source: libvirt, "Secret XML format", https://libvirt.org/formatsecret.html.
"""

# Declarations are tables, laid out by hand.
# fmt: off
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from manor.base.errors import ConfigError
from manor.domain import names
from manor.domain.xml import checker, reader, tree, writer
from manor.domain.xml.property import Element, Finding, prop
from manor.domain.xml.values import Choice, Flag, Text, Uuid

ROOT: Final = "secret"
_NAME: Final = Text(4096)
USAGES: Final = {"volume": (1, "volume"), "ceph": (2, "name"), "iscsi": (3, "target"), "tls": (4, "name"),
                 "vtpm": (5, "name")}
"""Type of usage -> (libvirt's number, the element that says which one). Source: libvirt API reference,
virSecretUsageType."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Secret(Element):
    """A secret. Its value stands elsewhere."""

    ephemeral: bool = prop("@ephemeral", Flag(), "whether the value is kept in memory alone", default=False)
    private: bool = prop("@private", Flag(), "whether clients cannot read the value", default=False)
    uuid: str | None = prop("uuid", Uuid(), "identity; generated if it is missing")
    description: str | None = prop("description", Text(), "a text for people")
    usage: str | None = prop("usage/@type", Choice(*USAGES), "what it is for")
    volume: str | None = prop("usage/volume", _NAME, "path of the volume, for type volume")
    name: str | None = prop("usage/name", _NAME, "name, for types ceph, tls and vtpm")
    target: str | None = prop("usage/target", _NAME, "name of the target, for type iscsi")

    def used_for(self) -> tuple[int, str]:
        """libvirt's number of the usage, and which one; (0, "") for none."""
        if self.usage is None:
            return 0, ""
        number, field = USAGES[self.usage]
        return number, getattr(self, field) or ""


def normal_secret(secret: Secret, new_uuid: Callable[[], str] = names.new_uuid) -> Secret:
    """The definition as it is kept. Raises ConfigError."""
    if secret.usage is not None and not secret.used_for()[1]:
        field = USAGES[secret.usage][1]
        raise ConfigError(f"{ROOT}/usage/{field}", f"it is missing; type {secret.usage} needs it")
    return replace(secret, uuid=secret.uuid or new_uuid())


def parse(text: str) -> Secret:
    """Raises ConfigError with the path of what is wrong."""
    return reader.read_element(Secret, tree.read(text, ROOT), ROOT)


def format(secret: Secret) -> str:
    return tree.write(writer.write_element(secret, ROOT))


def check(secret: Secret) -> list[Finding]:
    """What will not be as the document asks. Empty: all will."""
    return list(checker.findings(secret, ROOT))
