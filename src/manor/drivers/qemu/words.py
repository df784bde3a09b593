"""How values are written on QEMU's command line.

Source: QEMU 7.2, qemu(1): "-device", "-blockdev" and "-object" take JSON; elsewhere a comma in a value is doubled.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Part = dict[str, Any]
"""A device, block node or object as QMP has it."""


def as_json(part: Mapping[str, Any]) -> str:
    """For -device, -blockdev, -object."""
    return json.dumps(part, separators=(",", ":"))


def as_text(kind: str, **values: object) -> str:
    """For -chardev, -smbios and others: `kind,key=value,...`. None leaves a value out, a list repeats its key."""
    words = [escape(kind)] if kind else []
    for name, value in values.items():
        for each in value if isinstance(value, (list, tuple)) else (value,):
            if each is not None:
                shown = {True: "on", False: "off"}.get(each, each) if isinstance(each, bool) else each
                words.append(f"{name}={escape(str(shown))}")
    return ",".join(words)


def escape(text: str) -> str:
    """A value in such a list."""
    return text.replace(",", ",,")


def socket_chardev(name: str, path: Path) -> str:
    """A character device that waits at a socket in QEMU's working directory, and does without anybody there.

    Relative: a socket's whole path has room for 108 bytes only.
    """
    return as_text("socket", id=name, path=path.name, server=True, wait=False)
