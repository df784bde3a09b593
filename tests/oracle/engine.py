"""The engine under test as an executor of the oracles' cases."""

from __future__ import annotations

import struct

from manor.engine.env import OFFSETS
from manor.engine.testing import PAGE, MicroVm
from tests.oracle.state import PAGE_FAULT, MachineState, Outcome, settle

CODE_PAGES = 2


class EngineExecutor:
    """Runs cases in ring 3 of a MicroVm."""

    def __init__(self, interpret: bool = False) -> None:
        self._vm = MicroVm(interpret)

    def run(self, code: bytes, state: MachineState, max_insns: int) -> MachineState:
        vm = self._vm
        start = state.rip & -PAGE
        wanted = {page: page not in state.read_only for page in state.memory}
        code_pages = range(start, start + CODE_PAGES * PAGE, PAGE)
        wanted |= dict.fromkeys(code_pages, True)
        vm.map_exactly(wanted, code_pages)
        for page, data in state.memory.items():
            vm.write(page, bytes(data))
        vm.write(start, b"\xcc" * (CODE_PAGES * PAGE))
        vm.write(state.rip, code)
        self._load(state)
        outcome = vm.run_until(state.rip + len(code), max_insns + 1)
        after = state.copy()
        self._store(after)
        if outcome.vector is not None:
            address = vm.get("cr", 2) if outcome.vector == PAGE_FAULT else 0
            after.outcome = Outcome(outcome.vector, outcome.error or 0, address)
        return settle(after, state.rip, len(code))

    def _load(self, state: MachineState) -> None:
        vm = self._vm
        struct.pack_into("<16Q", vm.cpu.state, OFFSETS["regs"], *state.gpr)
        vm.set("rip", state.rip)
        vm.cpu.set_flags(state.rflags)
        vm.cpu.load_fpu_image(state.fxsave_image())
        vm.set("seg_base", state.fs_base, 4)
        vm.set("seg_base", state.gs_base, 5)
        vm.set("fault", 0, code="I")
        vm.set("exc_has_error", 0, code="I")
        vm.set("exc_error", 0, code="I")
        vm.cpu.changed()

    def _store(self, after: MachineState) -> None:
        vm = self._vm
        after.gpr = list(struct.unpack_from("<16Q", vm.cpu.state, OFFSETS["regs"]))
        after.rip = vm.get("rip")
        after.rflags = vm.cpu.flags()
        after.load_fxsave(vm.cpu.fpu_image())
        for page in after.memory:
            after.memory[page] = vm.read(page, PAGE)
