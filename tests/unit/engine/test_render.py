"""What `--trace blocks` shows."""

from __future__ import annotations

import importlib
from typing import Any

import pytest

from manor.engine.env import FLAG_AC, FLAG_CODE32, FLAG_CODE64, FLAG_MMU_SHIFT, MMU_USER, RBP, RSP
from manor.engine.render import describe_flags, host_lines, render_block
from manor.engine.uop.show import Uop
from manor.engine.uop.table import NUMBER

USER = FLAG_CODE64 | 3 | MMU_USER << FLAG_MMU_SHIFT
GUEST = bytes.fromhex("55 4889e5")
UOPS = b"".join(
    uop.pack()
    for uop in (
        Uop(NUMBER["st64"], a=RSP, b=RBP, imm=-8),
        Uop(NUMBER["add64i"], d=RSP, a=RSP, imm=-8),
        Uop(NUMBER["mov"], d=RBP, a=RSP, insn=1),
        Uop(NUMBER["jump"], insn=2),
    )
)


def test_three_columns() -> None:
    text = render_block(0x401000, 0x1000, GUEST, UOPS, bytes.fromhex("4883ec08 c3"), USER, (0x401004, 0))
    assert text.splitlines() == [
        "block 0x401000, gpa 0x1000: 64-bit, ring 3, user, 2 instructions, 4 uops, 5 bytes of host code",
        "  guest                         | uops                 | host",
        "  401000  55       push rbp     | st64 [rsp - 8], rbp  |    0  sub rsp, 8",
        "                                | rsp = add64i rsp, -8 |    4  ret",
        "  401001  48 89 e5 mov rbp, rsp | rbp = rsp",
        "                                | jump -> 0x401004",
    ]


def test_without_host_code_there_is_no_column_for_it() -> None:
    text = render_block(0x401000, 0x1000, GUEST, UOPS, b"", FLAG_CODE64)
    assert "host" not in text
    assert "ring 0, supervisor" in text
    assert text.splitlines()[-1].endswith("| jump -> 0")


def test_an_empty_block_renders() -> None:
    assert render_block(0, 0, b"", b"", b"", 0).startswith("block 0x0, gpa 0x0: 16-bit, ring 0")


def test_host_code_longer_than_the_rest_goes_on() -> None:
    text = render_block(0, 0, b"\x90", Uop(NUMBER["jump"]).pack(), b"\x90" * 5, FLAG_CODE64)
    assert text.count("nop") == 6


def test_flags_are_named() -> None:
    assert describe_flags(FLAG_CODE32 | FLAG_AC | 3) == "32-bit, ring 3, supervisor, alignment"


def test_bytes_that_are_no_code_are_data() -> None:
    assert host_lines(bytes.fromhex("06 90")) == ["   0  .byte 0x06", "   1  nop"]


def test_host_code_is_hexadecimal_without_a_disassembler(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str, package: str | None = None) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    assert host_lines(bytes(range(18))) == ["   0  00 01 02 03 04 05 06 07 08 09 0a 0b 0c 0d 0e 0f", "  10  10 11"]
