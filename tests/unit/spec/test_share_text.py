"""Shared folders and socket devices in one line, and what is wrong with a description."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from manor.base.errors import ConfigError
from manor.base.units import MiB
from manor.spec.check import check
from manor.spec.machine import MachineSpec
from manor.spec.share import ShareSpec
from manor.spec.share_text import parse_share, parse_vsock
from manor.spec.vsock import VsockSpec


def test_lines() -> None:
    assert parse_share("/srv") == ShareSpec(Path("/srv"), "share")
    assert parse_share("a,,b,tag=work,readonly=on,uid=1000,gid=5") == ShareSpec(Path("a,b"), "work", True, 1000, 5)
    assert parse_vsock("/run/v.sock") == VsockSpec(Path("/run/v.sock"), 3)
    assert parse_vsock("v.sock,cid=77") == VsockSpec(Path("v.sock"), 77)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "begins with no path"),
        (",tag=x", "begins with no path"),
        ("/srv,ro", "'ro' is not understood; write PATH"),
        ("/srv,tag=", "is not understood"),
        ("/srv,tag=a,tag=b", "tag is given twice"),
        ("/srv,readonly=yes", "write on or off"),
        ("/srv,uid=-1", "give a number"),
        ("/srv,uid=4294967295", "give a number"),
        ("/srv,gid=²", "give a number"),
    ],
)
def test_lines_with_mistakes(line: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_share(line)


@pytest.mark.parametrize(
    ("line", "message"), [("", "no path"), ("v,cid=x", "give a number"), ("v,port=1", "understood")]
)
def test_vsock_lines_with_mistakes(line: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_vsock(line)


def test_descriptions_with_mistakes() -> None:
    good = MachineSpec(Path("kernel"), shares=(ShareSpec(Path("/a"), "a"), ShareSpec(Path("/b"), "b")))
    check(good, 1 << 40)
    for cid in (0, 2, 0xFFFF_FFFF):
        with pytest.raises(ConfigError, match="is no guest's; give 3 to"):
            check(replace(good, vsock=VsockSpec(cid=cid)), 1 << 40)
    for tag in ("", "a b", "x" * 37, "../x", "a,b"):
        with pytest.raises(ConfigError, match="is no tag"):
            check(replace(good, shares=(ShareSpec(Path("/a"), tag),)), 1 << 40)
    with pytest.raises(ConfigError, match="given twice"):
        check(replace(good, shares=(ShareSpec(Path("/a")), ShareSpec(Path("/b")))), 1 << 40)
    assert good.memory == 256 * MiB
