"""String instructions: native helpers run them whole, a page at a time.

A repeated instruction stops early when an interrupt is pending: the helper leaves RIP at the
instruction, and it goes on from the counters later, as the processor does.
Source: SDM volume 2, "REP/REPE/REPZ/REPNE/REPNZ" and each mnemonic.
"""

from __future__ import annotations

from manor.engine.isa.x86.declare import Body, declare
from manor.engine.isa.x86.template import IMM_STRING, Builder, Imm

_STRING = (("movs", 0xA4), ("cmps", 0xA6), ("stos", 0xAA), ("lods", 0xAC), ("scas", 0xAE))


def _single(name: str, byte: bool) -> Body:
    def body(c: Builder) -> None:
        c.call(name, imm=Imm(IMM_STRING, 1 if byte else c.opsize // 8))

    return body


def _repeated(name: str, byte: bool) -> Body:
    """The helper sets RIP: the next instruction, or this one again if it was interrupted."""

    def body(c: Builder) -> None:
        c.call("rep_" + name, imm=Imm(IMM_STRING, 1 if byte else c.opsize // 8))
        c.exit()

    return body


for _name, _opcode in _STRING:
    for _byte in (True, False):
        _code = f"{_opcode + (not _byte):02X}"
        declare(_name, f"NP {_code}", _single(_name, _byte))
        declare(_name, f"66 {_code}", _single(_name, _byte))
        declare("rep " + _name, f"F3 {_code}", _repeated(_name, _byte))
        declare("repne " + _name, f"F2 {_code}", _repeated(_name, _byte))
