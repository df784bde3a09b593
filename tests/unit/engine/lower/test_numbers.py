"""The compiled modules and the build agree on every number that they share."""

from __future__ import annotations

from pathlib import Path

from manor.engine.env import XMM_COUNT, XMM_SCRATCH
from manor.engine.lower import copy_native, forms, passes_native
from manor.engine.lower.blob import HEADER, OP_INFO, RELOCATION, STENCIL, is_current, pack_ops
from manor.engine.lower.forms import Form, Hole, Patch, Shape, Special
from manor.engine.uop.ops import Kind
from manor.engine.uop.table import NUMBER, OPS


def test_stencils() -> None:
    assert copy_native.numbers() == {
        "SLOTS": forms.SLOTS, "FORMS": forms.FORMS, "RM": Form.RM, "MEMORY_WIDE": Form.MEMORY_WIDE,
        "VALUE": Hole.VALUE, "SHIFT": Hole.SHIFT, "COUNT": Hole.COUNT, "ABS8": Patch.ABS8,
        "CONST_64": Special.CONST_64, "SPECIALS": len(Special), "Stencil": STENCIL.size,
        "Relocation": RELOCATION.size, "Header": HEADER.size,
        "META_ALIGNED": forms.META_ALIGNED, "XSLOTS": forms.XSLOTS,
        "X_COLD": Form.X_COLD, "XMM": XMM_COUNT, "XMM_SCRATCH": XMM_SCRATCH, "SHAPE_D": Shape.D,
    }  # fmt: skip


def test_passes() -> None:
    checked = (Kind.UNARY, Kind.LOAD, Kind.HELPER, Kind.VECTOR_STORE, Kind.NOP)
    kinds = {kind.name: forms.KIND_NUMBER[kind] for kind in checked}
    assert passes_native.numbers() == kinds | {
        "OpInfo": OP_INFO.size, "READS_D": forms.READS_D, "MUST_ALIGN": forms.MUST_ALIGN,
        "COMMUTATIVE": forms.COMMUTATIVE, "SHIFT_AMOUNT": forms.SHIFT_AMOUNT, "B_IS_VREG": forms.B_IS_VREG,
    }  # fmt: skip


def test_immediate_form_follows_register_form() -> None:
    """The emitter steps from one to the other by one."""
    for number, info in enumerate(forms.op_infos()):
        if info.imm_op >= 0:
            assert info.imm_op == number + 1, OPS[number].name


def test_number_zero_is_nop() -> None:
    assert NUMBER["nop"] == 0


def test_files_are_for_this_table(tmp_path: Path) -> None:
    assert len(pack_ops()) == 16 + len(OPS) * OP_INFO.size
    assert not is_current(tmp_path / "missing")
    (tmp_path / "short").write_bytes(b"x")
    assert not is_current(tmp_path / "short")
