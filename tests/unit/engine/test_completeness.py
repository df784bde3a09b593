"""Nothing is declared without being exercised: instructions, uops, trace events, options of the command line.

What is left out stands in a table here with its reason; an entry that is no longer needed fails too.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType

import click
import pytest

from manor.cli.main import COMMANDS
from manor.engine.disassemble import decode
from manor.engine.isa.x86.catalog import instructions
from manor.engine.isa.x86.declare import Insn
from manor.engine.isa.x86.helper_catalog import HELPERS
from manor.engine.isa.x86.template import PSEUDO, Item, P, build, variants
from manor.engine.uop.ops import RELATIONS, WIDTHS
from manor.engine.uop.table import NUMBER, OPS
from tests.oracle.cases import ROWS, Row

ROOT = Path(__file__).resolve().parents[3]
TESTS = ROOT / "tests"
ENGINE = ROOT / "src" / "manor" / "engine"

# ---------------------------------------------------------------------- instructions
_BYTE_STRING = "66 has no effect on byte operations: the same template as without it"
_HINT = "does nothing, as 0F 1F, which is generated"
_ALIAS = "undocumented alias of a generated form, with the same body; capstone does not know it"
_NOTHING = "8087 and 287 instruction that does nothing"
NOT_GENERATED = {
    "66 A4": _BYTE_STRING, "66 A6": _BYTE_STRING, "66 AA": _BYTE_STRING, "66 AC": _BYTE_STRING,
    "66 AE": _BYTE_STRING,
    "0F 19 Ev": _HINT, "0F 1A Ev": _HINT, "0F 1B Ev": _HINT, "0F 1C Ev": _HINT, "0F 1D Ev": _HINT,
    "DC /2": _ALIAS, "DC /3": _ALIAS, "DE /2": _ALIAS, "DD /1": _ALIAS, "DF /1": _ALIAS, "DF /2": _ALIAS,
    "DF /3": _ALIAS, "DF /0": _ALIAS,
    "DB /4 rm=0": _NOTHING, "DB /4 rm=1": _NOTHING, "DB /4 rm=4": _NOTHING,
    "0F FF Gv,Ev": "UD0: its length differs between processor generations",
}  # fmt: skip
"""Encoding -> why no oracle case and no unit test names it."""


def generated_code(row: Row) -> Iterator[bytes]:
    """Code of the forms that a row of the oracle's table generates."""
    template = row.template
    prefix = bytes([template.mandatory]) if template.mandatory is not None else b""
    if row.setup.startswith("string"):
        prefix = bytes.fromhex(row.setup.removeprefix("string"))
    head = b"\x66" * template.operand_16 + prefix + b"\x48" * template.rex_w
    if template.plus_register:
        # Not register 0: 90 is NOP.
        yield head + template.opcode[:-1] + bytes([template.opcode[-1] + 1])
    elif template.has_modrm:
        kinds = {operand[0] for operand in row.operands}
        for mod in (0,) if "M" in kinds else (3,) if kinds & set("UNR") else (0, 3):
            yield head + template.opcode + bytes([mod << 6 | (template.digit or 0) << 3])
    else:
        yield head + template.opcode


@cache
def generated() -> frozenset[int]:
    """id() of the declared forms that the oracle's cases contain."""
    found = set()
    for row in ROWS:
        for code in generated_code(row):
            line = decode(code + bytes(14), 0)
            if line is not None and line.insn is not None:
                found.add(id(line.insn))
    return frozenset(found)


@cache
def engine_test_words() -> frozenset[str]:
    """The words of the engine's unit tests, whole and split at underscores: they name instructions and helpers."""
    text = "".join(path.read_text("utf-8") for path in (TESTS / "unit" / "engine" / "isa").rglob("*.py"))
    words = set(re.findall(r"\w+", text))
    return frozenset(words.union(*(word.split("_") for word in words)))


def items(insn: Insn) -> Iterator[Item]:
    for variant in variants(insn):
        yield from build(insn, variant)


def helpers(insn: Insn) -> set[str]:
    number = NUMBER["helper"]
    return {HELPERS[item.x].name for item in items(insn) if item.op == number}


def other_modes(insn: Insn) -> bool:
    """Whether an instruction that 64-bit mode lacks has its body in common with a generated one."""
    return insn.mode == "legacy" and any(
        other.body is insn.body or other.name == insn.name for other in instructions() if id(other) in generated()
    )


def is_exercised(insn: Insn) -> bool:
    named = (helpers(insn) or {insn.name}) & engine_test_words()
    return id(insn) in generated() or bool(named) or other_modes(insn)


def test_every_instruction_is_generated_for_an_oracle_or_tested_by_its_helper() -> None:
    missing = [
        f"{insn.name} | {insn.encoding.text}"
        for insn in instructions()
        if insn.encoding.text not in NOT_GENERATED and not is_exercised(insn)
    ]
    assert not missing, "\n".join(missing)


def test_exclusions_of_instructions_are_needed() -> None:
    declared = {insn.encoding.text: insn for insn in instructions()}
    assert set(NOT_GENERATED) <= set(declared)
    assert [text for text in NOT_GENERATED if id(declared[text]) in generated()] == []


# ---------------------------------------------------------------------- uops
_WHOLE_FAMILY = "declared with its family; the interpreter and the stencils are tested with it"
UNUSED_UOPS = {
    "nop": "for tests and passes", "xzero": "for PXOR of a register with itself, which is not used yet",
    "mul32i": _WHOLE_FAMILY, "mul64i": _WHOLE_FAMILY, "mulhu64i": _WHOLE_FAMILY,
    "mulhs64i": _WHOLE_FAMILY, "insert8i": _WHOLE_FAMILY, "insert8hi": _WHOLE_FAMILY, "insert16i": _WHOLE_FAMILY,
    "addsl1i": _WHOLE_FAMILY, "addsl2i": _WHOLE_FAMILY, "addsl3i": _WHOLE_FAMILY, "ld8s32": _WHOLE_FAMILY,
    "ld16s32": _WHOLE_FAMILY, "ld8s64": _WHOLE_FAMILY, "ld16s64": _WHOLE_FAMILY, "ld32s64": _WHOLE_FAMILY,
}  # fmt: skip
"""Uop -> why no instruction and no part of the translator uses it."""


def uops_of_templates() -> set[str]:
    """Uops that some variant of some instruction emits."""
    used: set[int] = set()
    for insn in instructions():
        selector: Item | None = None
        for item in items(insn):
            if item.op == P["BYIMM"]:
                selector = item
            elif item.op < PSEUDO:
                used.add(item.op)
                if selector is not None:
                    mask, most = selector.x, selector.constant
                    used |= {item.op + min(value & mask, most) for value in range(256)}
                    selector = None
    return {OPS[number].name for number in used}


def uops_of_translator() -> set[str]:
    """Uops that the translator and the passes name, and the families that it computes from their first member."""
    text = "".join(path.read_text("utf-8") for path in ENGINE.rglob("*_native.py"))
    named = {word for word in re.findall(r'"(\w+)"', text) if word in NUMBER}
    named |= {f"{kind}{relation}{width}{end}" for kind, ends in (("set_", ("_", "_i")), ("br_", ("", "i")))
              for relation in RELATIONS for width in WIDTHS for end in ends}  # fmt: skip
    return named | {"addsl1", "addsl2", "addsl3"}


def test_every_uop_is_used_by_an_instruction_or_by_the_translator() -> None:
    unused = {op.name for op in OPS} - uops_of_templates() - uops_of_translator()
    assert unused - set(UNUSED_UOPS) == set()


def test_exclusions_of_uops_are_uops() -> None:
    assert set(UNUSED_UOPS) <= set(NUMBER)
    assert set(UNUSED_UOPS) & uops_of_templates() == set()


# ---------------------------------------------------------------------- trace events
NOT_FIRED: dict[str, str] = {}
"""Event -> why no unit test fires it."""


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    """The generator of the reference pages, which finds the declared events."""
    spec = importlib.util.spec_from_file_location("manor_reference_events", ROOT / "tools" / "gen" / "reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_every_trace_event_is_documented(generator: ModuleType) -> None:
    page = (ROOT / "docs" / "reference" / "trace-events.md").read_text("utf-8")
    missing = [event.name for event in generator.declared_events() if f"`{event.name}`" not in page]
    assert not missing, f"{missing}: run python tools/gen/reference.py"


def test_every_trace_event_is_fired_by_a_test(generator: ModuleType, fired_events: set[str]) -> None:
    declared = {event.name for event in generator.declared_events()}
    assert set(NOT_FIRED) <= declared
    assert declared - fired_events - set(NOT_FIRED) == set()
    assert set(NOT_FIRED) & fired_events == set(), "these exclusions are no longer needed"


# ---------------------------------------------------------------------- command line
def options() -> Iterator[tuple[str, str]]:
    """(command, option) for the long names of all options."""
    for name, (target, _) in COMMANDS.items():
        module, _, attribute = target.partition(":")
        command = getattr(importlib.import_module(module), attribute)
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                yield from ((name, option) for option in parameter.opts if option.startswith("--"))


def test_every_option_is_given_in_a_test() -> None:
    text = "".join(path.read_text("utf-8") for path in TESTS.rglob("*.py") if path != Path(__file__))
    missing = [f"{name} {option}" for name, option in options() if not re.search(rf'["\s]{option}["\s=]', text)]
    assert not missing, missing
