"""Capstone's view of generated code: shown in failures, and a check that the table encodes what it names."""

from __future__ import annotations

import capstone

from tests.oracle.generate import Case

QUIRKS = {"ud1": "capstone 5 leaves out the ModRM byte that UD1 has (SDM volume 2, UD)"}

_disassembler = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)


def listing(code: bytes, address: int) -> list[str]:
    """One line an instruction; undecodable bytes as `.byte`."""
    lines = []
    offset = 0
    while offset < len(code):
        insn = next(_disassembler.disasm(code[offset:], address + offset, 1), None)
        if insn is None:
            lines.append(f".byte {code[offset:].hex(' ')}")
            break
        lines.append(f"{insn.mnemonic} {insn.op_str}".strip())
        offset += insn.size
    return lines


def check(case: Case) -> str | None:
    """What is wrong with the encoding of a single-instruction case according to capstone; None if nothing."""
    (row,) = case.rows
    insn = next(_disassembler.disasm(case.code, case.state.rip, 1), None)
    if "none" in row.aliases:
        return None if insn is None else f"{row}: should not decode, is {insn.mnemonic}"
    if insn is None:
        return f"{row}: {case.code.hex(' ')} does not decode"
    if insn.size != len(case.code) and row.mnemonic not in QUIRKS:
        return f"{row}: {case.code.hex(' ')} is {insn.mnemonic} of {insn.size} bytes"
    if not row.aliases & set(insn.mnemonic.split()):
        return f"{row}: {case.code.hex(' ')} is {insn.mnemonic} {insn.op_str}"
    return None
