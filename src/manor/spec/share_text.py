"""A shared folder and a socket device, each written in one line, as `manor run --share` and `--vsock` take them."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from manor.base.errors import ConfigError
from manor.spec.disk_text import split_commas
from manor.spec.share import ShareSpec
from manor.spec.vsock import VsockSpec

SHARE_FORMAT: Final = "PATH[,tag=NAME][,readonly=on][,uid=N][,gid=N]"
VSOCK_FORMAT: Final = "PATH[,cid=N]"
_SWITCH: Final = {"on": True, "off": False}


def parse_share(text: str, where: str = "share") -> ShareSpec:
    """The folder that `text` describes. A comma that belongs to the path is written twice. Raises ConfigError."""
    path, values = _parse(text, where, SHARE_FORMAT, ("tag", "readonly", "uid", "gid"))
    read_only = values.get("readonly", "off")
    if read_only not in _SWITCH:
        raise ConfigError(where, f"readonly={read_only}: write on or off")
    return ShareSpec(
        path,
        values.get("tag", "share"),
        _SWITCH[read_only],
        _number(values.get("uid", "0"), "uid", where),
        _number(values.get("gid", "0"), "gid", where),
    )


def parse_vsock(text: str, where: str = "vsock") -> VsockSpec:
    """The socket device that `text` describes, as above. Raises ConfigError."""
    path, values = _parse(text, where, VSOCK_FORMAT, ("cid",))
    return VsockSpec(path, _number(values["cid"], "cid", where)) if "cid" in values else VsockSpec(path)


def _parse(text: str, where: str, form: str, known: tuple[str, ...]) -> tuple[Path, dict[str, str]]:
    path, *words = split_commas(text)
    if not path:
        raise ConfigError(where, f"{text!r} begins with no path; write {form}")
    values: dict[str, str] = {}
    for word in words:
        name, _, value = word.partition("=")
        if name not in known or not value:
            raise ConfigError(where, f"{word!r} is not understood; write {form}")
        if name in values:
            raise ConfigError(where, f"{name} is given twice")
        values[name] = value
    return Path(path), values


def _number(text: str, name: str, where: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) > 0xFFFF_FFFE:
        raise ConfigError(where, f"{name}={text}: give a number from 0 to {0xFFFF_FFFE}")
    return int(text)
