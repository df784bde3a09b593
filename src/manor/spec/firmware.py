"""What the firmware's tables tell a guest about its machine, as a user asks for it."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from manor.base.errors import ConfigError

_CREDENTIAL: Final = re.compile(r"[A-Za-z0-9._@-]{1,200}", re.ASCII)
"""A file name that systemd takes for a credential. Source: systemd 252, systemd.exec(5), "SetCredential="."""


@dataclass(frozen=True, slots=True)
class SmbiosSpec:
    """Identity of the machine, and texts for its guest.

    uuid: 8-4-4-4-12 hexadecimal digits, "" for none. serial: of the system. strings: OEM strings (type 11), which
    anybody in the guest who may read the firmware's tables (root) can read.
    """

    uuid: str = ""
    serial: str = ""
    strings: tuple[str, ...] = ()


def credential(name: str, value: bytes) -> str:
    """The OEM string that gives systemd in the guest a credential. Raises ConfigError.

    Source: systemd 252, systemd.exec(5) and "System and Service Credentials": io.systemd.credential.binary:NAME=BASE64.
    """
    if not _CREDENTIAL.fullmatch(name):
        raise ConfigError("credential", f"{name!r} is not a name for a credential")
    return f"io.systemd.credential.binary:{name}={base64.b64encode(value).decode()}"


def check_smbios(spec: SmbiosSpec) -> None:
    """Raise ConfigError for texts that have no place in the tables."""
    if spec.uuid:
        try:
            UUID(spec.uuid)
        except ValueError as error:
            raise ConfigError("uuid", f"{spec.uuid!r} is not a UUID; write it like {UUID(int=1)}") from error
    for text in (spec.serial, *spec.strings):
        if "\0" in text or len(text.encode()) != len(text) or not text.isprintable():
            raise ConfigError("smbios", f"{text[:60]!r} has characters other than printable ASCII")
    if "" in spec.strings:
        raise ConfigError("smbios", "an empty string cannot be told from the end of the strings")
    if len(spec.strings) > 255:
        raise ConfigError("smbios", f"{len(spec.strings)} strings are too many; there is room for 255")
