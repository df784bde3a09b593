"""Names of images, as users write them: NAME, NAME:TAG, or the beginning of a digest."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from manor.base.errors import ConfigError

DEFAULT_TAG: Final = "latest"
_NAME: Final = re.compile(r"[a-z0-9]+(?:[._-][a-z0-9]+)*", re.ASCII)
_TAG: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}", re.ASCII)
"""Source of both: OCI Distribution Specification 1.1, "Pulling manifests"; here a name has no slashes."""
_DIGEST: Final = re.compile(r"(?:sha256:)?([0-9a-f]{8,64})", re.ASCII)
_MAX_NAME: Final = 128


@dataclass(frozen=True, slots=True, order=True)
class Reference:
    """A name with its tag."""

    name: str
    tag: str = DEFAULT_TAG

    def __str__(self) -> str:
        return self.name if self.tag == DEFAULT_TAG else f"{self.name}:{self.tag}"


def parse_reference(text: str) -> Reference:
    """The reference that `text` means. Raises ConfigError."""
    name, colon, tag = text.partition(":")
    if not _NAME.fullmatch(name) or len(name) > _MAX_NAME:
        raise ConfigError(
            "", f"{text!r} is not a name for an image: write small letters, digits and single . _ - between them"
        )
    if colon and not _TAG.fullmatch(tag):
        raise ConfigError("", f"{text!r} has a tag that cannot be one: write letters, digits and . _ - in it")
    return Reference(name, tag if colon else DEFAULT_TAG)


def parse_digest(text: str) -> str | None:
    """The hexadecimal digits if `text` may be a digest or its beginning (8 digits or more)."""
    found = _DIGEST.fullmatch(text)
    return found[1] if found else None
