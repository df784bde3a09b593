"""The document of a secret.

Source: libvirt, "Secret XML format", https://libvirt.org/formatsecret.html; API reference, virSecretUsageType.
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

ROOT = "secret"
_WHICH = Text(4096)
USAGES: Final = {"volume": (1, "volume"), "ceph": (2, "name"), "iscsi": (3, "target"), "tls": (4, "name"),
                 "vtpm": (5, "name")}
"""Type -> (libvirt's number, the element that says which one)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Secret(Element):
    """What a secret is for. Its value is in no document."""

    ephemeral: bool | None = prop("@ephemeral", Flag(), "kept in memory alone")
    private: bool | None = prop("@private", Flag(), "its value is told to nobody")
    uuid: str | None = prop("uuid", Uuid(), "identity; generated if it is missing")
    description: str | None = prop("description", Text(), "a text for people")
    usage: str | None = prop("usage/@type", Choice(*USAGES), "what it is for")
    volume: str | None = prop("usage/volume", _WHICH, "path of the volume")
    name: str | None = prop("usage/name", _WHICH, "name that those who use it know")
    target: str | None = prop("usage/target", _WHICH, "name that iSCSI targets know")

    def identity(self) -> tuple[int, str]:
        """(libvirt's number of the usage, which one); (0, "") if it is for nothing."""
        if self.usage is None:
            return 0, ""
        number, attribute = USAGES[self.usage]
        return number, getattr(self, attribute) or ""


def normal_secret(secret: Secret, new_uuid: Callable[[], str] = names.new_uuid) -> Secret:
    """The definition as it is kept. Raises ConfigError for what contradicts itself."""
    _, which = secret.identity()
    if secret.usage is not None and not which:
        wanted = USAGES[secret.usage][1]
        raise ConfigError(f"{ROOT}/usage", f"{secret.usage} usage specified, but {wanted} is missing")
    return replace(secret, ephemeral=bool(secret.ephemeral), private=bool(secret.private),
                   uuid=secret.uuid or new_uuid())


def parse(text: str) -> Secret:
    """Raises ConfigError with the path of what is wrong."""
    return reader.read_element(Secret, tree.read(text, ROOT), ROOT)


def format(secret: Secret) -> str:
    return tree.write(writer.write_element(secret, ROOT))


def check(secret: Secret) -> list[Finding]:
    """What will not be as the document asks. Empty: all will."""
    return list(checker.findings(secret, ROOT))
