"""Decimal adjustment, outside 64-bit mode. Source: SDM volume 2, by mnemonic."""

from __future__ import annotations

from manor.engine.isa.x86.declare import Body, declare
from manor.engine.isa.x86.template import IMM_IMM, Builder, Imm, Operand


def _adjust(name: str) -> Body:
    def body(c: Builder, *base: Operand) -> None:
        c.call(name, imm=Imm(IMM_IMM) if base else 0)

    return body


for _name, _encoding, _undefined in (
    ("daa", "27", ("of",)), ("das", "2F", ("of",)), ("aaa", "37", ("of", "sf", "zf", "pf")),
    ("aas", "3F", ("of", "sf", "zf", "pf")), ("aam", "D4 Ib", ("of", "af", "cf")),
    ("aad", "D5 Ib", ("of", "af", "cf")),
):  # fmt: skip
    declare(_name, _encoding, _adjust(_name), mode="legacy", undefined=_undefined)


def _salc(c: Builder) -> None:
    """SALC: AL = CF ? 0xFF : 0."""
    c.op("insert8", 0, c.op("neg64", c.carry()), 0)


declare("salc", "D6", _salc, mode="legacy")
