"""The register reference: Markdown made from the declarations."""

from __future__ import annotations

from manor.regs.access import describe
from manor.regs.field import Field, Reg, RegisterTable


def markdown(table: RegisterTable) -> str:
    """Reference of one table: an overview, then the fields of every register."""
    lines = [f"## {table.name}", ""]
    if table.source:
        lines += [f"Source: {table.source}", ""]
    has_banks = table.banks != ("",)
    head = ["offset", "register", "bits", "access", "reset", "meaning"]
    if has_banks:
        head.insert(1, "bank")
    lines += [_row(head), _row(["---"] * len(head))]
    for reg in sorted(table.regs, key=lambda reg: (reg.offset, reg.bank or "")):
        cells = [_offsets(reg), f"`{reg.name}`", str(reg.width), describe(reg.access), _hex(reg), reg.doc]
        if has_banks:
            cells.insert(1, reg.bank or "any")
        lines.append(_row(cells))
    for reg in table.regs:
        if [item.name for item in reg.fields] == ["value"]:
            continue
        lines += ["", f"### {table.name}.{reg.name}", ""]
        if reg.source:
            lines += [f"Source: {reg.source}", ""]
        lines += [_row(["bits", "field", "access", "reset", "meaning"]), _row(["---"] * 5)]
        lines += [_field_row(item) for item in sorted(reg.fields, key=lambda item: -item.lsb)]
    return "\n".join(lines) + "\n"


def _offsets(reg: Reg) -> str:
    if reg.count == 1:
        return f"`{reg.offset:#x}`"
    return f"`{reg.offset:#x}` + n * `{reg.stride:#x}`, n < {reg.count}"


def _hex(reg: Reg) -> str:
    return f"`{reg.reset_value:#x}`"


def _field_row(item: Field) -> str:
    bits = str(item.lsb) if item.width == 1 else f"{item.lsb + item.width - 1}:{item.lsb}"
    meaning = "; ".join([item.doc] * bool(item.doc) + [f"{value} {name}" for value, name in item.values])
    access = describe(item.access) if item.access is not None else ""
    return _row([bits, f"`{item.name}`" if item.name else "", access, f"`{item.reset:#x}`", meaning])


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"
