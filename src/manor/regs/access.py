"""What software may do with a register field."""

from __future__ import annotations

from enum import Flag


class Access(Flag):
    """Combine with `|`. A field that is neither readable nor writable is reserved."""

    RESERVED = 0
    R = 1
    """Reads give the value."""
    W = 2
    """Writes replace the value."""
    W1C = 4
    """Writing one clears the bit, zero leaves it."""
    W1S = 8
    """Writing one sets the bit, zero leaves it."""
    RC = 16
    """Reading clears the bit after giving its value."""


RW = Access.R | Access.W
RO = Access.R
WO = Access.W
W1C = Access.R | Access.W1C
W1S = Access.R | Access.W1S
RC = Access.R | Access.RC
RESERVED = Access.RESERVED

_NAMES = {RW: "RW", RO: "RO", WO: "WO", W1C: "R/W1C", W1S: "R/W1S", RC: "RC", RESERVED: "reserved"}


def describe(access: Access) -> str:
    """Short name for tables: `RW`, `RO`, `R/W1C`, …"""
    known = _NAMES.get(access)
    if known is not None:
        return known
    return "/".join(str(kind.name) for kind in Access if kind in access)
