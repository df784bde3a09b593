"""The text form of uops is stable: traces and golden tests are read by people."""

from __future__ import annotations

import pytest

from manor.engine.env import CC_DST, CC_OP, CC_SRC, EA, RAX, RCX, RSP, T0, ZERO
from manor.engine.isa.x86.flags import CC_KINDS, cc
from manor.engine.isa.x86.helper_catalog import HELPER_NUMBER
from manor.engine.uop.show import LAYOUT, Uop, number, show, unpack
from manor.engine.uop.table import NUMBER, OPS


def uop(name: str, **fields: int) -> Uop:
    return Uop(NUMBER[name], **fields)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (uop("nop"), "nop"),
        (uop("mov", d=T0, a=RAX), "t0 = rax"),
        (uop("movi", d=RAX, imm=-1), "rax = -1"),
        (uop("movi", d=CC_OP, imm=cc("SUB", 64)), "cc_op = SUB64"),
        (uop("movi", d=CC_OP, imm=cc("EFLAGS", 8)), "cc_op = EFLAGS"),
        (uop("movi", d=CC_OP, imm=4 * len(CC_KINDS)), "cc_op = 0x3c"),
        (uop("zext32", d=RCX, a=T0), "rcx = zext32 t0"),
        (uop("add64", d=T0, a=RAX, b=RCX), "t0 = add64 rax, rcx"),
        (uop("add64i", d=RSP, a=RSP, imm=-16), "rsp = add64i rsp, -0x10"),
        (uop("selnz", d=RAX, a=T0, b=EA), "rax = selnz t0, ea"),
        (uop("ld32", d=RAX, a=RSP, imm=8), "rax = ld32 [rsp + 8]"),
        (uop("ld8s64", d=RAX, a=EA), "rax = ld8s64 [ea]"),
        (uop("st64", a=RSP, b=RAX, imm=-8), "st64 [rsp - 8], rax"),
        (uop("st8", a=ZERO, b=RAX, imm=0x1234), "st8 [0x1234], rax"),
        (uop("rmw_add32", d=T0, a=EA, b=RAX), "t0 = rmw_add32 [ea], rax"),
        (uop("cmpxchg64", d=T0, a=EA, b=RCX), "t0 = cmpxchg64 [ea], rcx, t0"),
        (uop("ldx", d=16, a=EA, imm=16), "x16 = ldx [ea + 0x10]"),
        (uop("stx", a=EA, b=3), "stx [ea], xmm3"),
        (uop("helper", x=HELPER_NUMBER["div64"], d=T0, a=RCX, imm=8), "t0 = div64(rcx, rax, 8)"),
        (uop("helper", x=0xFFFF, d=T0), "t0 = helper_65535(rax, rax, 0)"),
        (uop("paddb", d=1, a=1, b=16), "xmm1 = paddb xmm1, x16"),
        (uop("psrlwi", d=1, a=1, imm=4), "xmm1 = psrlwi xmm1, 4"),
        (uop("pmovmskb", d=RAX, a=2), "rax = pmovmskb xmm2"),
        (uop("jump"), "jump -> 0"),
        (uop("br_eq32", a=CC_DST, b=CC_SRC), "br_eq32 cc_dst, cc_src -> 0, 1"),
        (uop("br_ne64i", a=T0, imm=0), "br_ne64i t0, 0 -> 0, 1"),
        (uop("jump_indirect", a=T0), "jump_indirect -> t0"),
        (uop("exit"), "exit"),
        (Uop(0xF001), "uop_61441"),
    ],
)
def test_each_kind_of_uop_has_its_form(given: Uop, text: str) -> None:
    assert show(given) == text


def test_exits_are_shown_as_addresses_when_known() -> None:
    assert show(uop("jump"), (0x1000, 0)) == "jump -> 0x1000"
    assert show(uop("br_eq8i", a=RAX), (0x1000, 0x2000)) == "br_eq8i rax, 0 -> 0x1000, 0x2000"


def test_every_uop_can_be_shown_and_names_itself() -> None:
    renamed = {"mov", "movi", "helper"}
    for index, op in enumerate(OPS):
        text = show(Uop(index, imm=1))
        assert op.name in renamed or op.name in text.split(), op.name


def test_uops_survive_their_bytes() -> None:
    given = [uop("add64i", d=1, a=2, insn=7, imm=-(1 << 63), pc=(1 << 64) - 1), uop("exit", x=3, b=39)]
    assert list(unpack(b"".join(item.pack() for item in given))) == given
    assert LAYOUT.size == 24


def test_cut_off_bytes_are_refused() -> None:
    with pytest.raises(ValueError, match="25 bytes"):
        list(unpack(bytes(25)))


@pytest.mark.parametrize(("value", "text"), [(9, "9"), (10, "0xa"), (-9, "-9"), (-10, "-0xa")])
def test_small_numbers_are_decimal(value: int, text: str) -> None:
    assert number(value) == text
