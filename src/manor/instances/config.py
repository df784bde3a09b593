"""What is remembered of a named VM between its runs: a file of JSON beside its disk."""

from __future__ import annotations

import json
import re
import time
import uuid
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from manor.base.errors import ConfigError, HostError
from manor.base.files import write_atomically

VERSION: Final = 1
_MAX_FILE: Final = 1 << 20
_NAME: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?", re.ASCII)
"""A label of a host name, as the guest is called so in DNS. Source: RFC 1123, 2.1."""


@dataclass(frozen=True, slots=True)
class InstanceConfig:
    """One VM. options: of `manor run`, by parameter, as they were written; they are read and checked at each run.

    image: what its disk was cloned from, in words, "" for none; digest: the same for the store. disk: whether it has a
    root disk of its own. user: the account that `manor ssh` logs in with. seed: what the first boot is told, see
    images.seed. created: seconds since the Epoch.
    """

    name: str
    uuid: str
    image: str = ""
    digest: str = ""
    disk: bool = False
    user: str = "root"
    created: float = 0.0
    options: dict[str, Any] = field(default_factory=dict)
    seed: dict[str, Any] | None = None


def new_config(name: str) -> InstanceConfig:
    """For a VM that is being made."""
    return InstanceConfig(name, str(uuid.uuid4()), created=time.time())


def check_name(name: str) -> str:
    """`name` if a VM may have it. Raises ConfigError."""
    if not _NAME.fullmatch(name):
        raise ConfigError(
            "",
            f"{name!r} is not a name for a VM: write 1 to 63 letters and digits, with - between them, as in host names",
        )
    return name


def load_config(path: Path) -> InstanceConfig:
    """Read a file that `save_config` wrote. Raises HostError for anything else, FileNotFoundError if there is none."""
    with path.open("rb") as file:
        data = file.read(_MAX_FILE + 1)
    try:
        value = json.loads(data) if len(data) <= _MAX_FILE else None
        if isinstance(value, dict) and value.pop("version", None) == VERSION:
            config = InstanceConfig(**value)
            if _is_valid(config):
                return config
    except (ValueError, TypeError, RecursionError):
        pass
    raise HostError(f"{path} is damaged, or of another version of Manor; restore it, or remove the VM", file=str(path))


def save_config(path: Path, config: InstanceConfig) -> None:
    """Write it, atomically and durably. Raises OSError."""
    write_atomically(path, json.dumps({"version": VERSION, **asdict(config)}, indent=1).encode() + b"\n")


def _is_valid(config: InstanceConfig) -> bool:
    texts = (config.name, config.uuid, config.image, config.digest, config.user)
    return (
        all(isinstance(text, str) for text in texts)
        and isinstance(config.disk, bool)
        and isinstance(config.created, (int, float))
        and isinstance(config.options, dict)
        and (config.seed is None or isinstance(config.seed, dict))
    )
