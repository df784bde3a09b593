"""The run-time side of a register table: values, dispatch, reset, save, load, traces.

Dispatch is one list index by offset: everything about a register is decided when the block is made and baked
into one function per (bank, offset, direction).

Hooks are methods of the device (arrays pass their index first):

    on_read_<reg>(self) -> int              the value software reads, before masking by readable fields
    on_write_<reg>(self, value: int)        after a stored register was updated: its new value;
                                            for one that is not stored: the written value, masked to writable
                                            bits
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from manor.base.bits import mask
from manor.base.errors import SavedStateError
from manor.regs.field import DeclarationError, Reg, RegisterTable
from manor.trace.event import declare, guest_error

register_read = declare("register_read", device=str, offset=int, size=int, value=int)
register_write = declare("register_write", device=str, offset=int, size=int, value=int)

Reader = Callable[[], int]
Writer = Callable[[int], None]


class RegisterBlock:
    """The registers of one device. Implements `bus.BusTarget`.

    Accesses that are no register's exact offset and size: with `split`, they are taken apart; a part of a
    wider register is read by extraction (the register's read effects happen) and, for stored registers,
    written by merging into the current value. Anything else reads as the table's `unmapped` bytes or is
    dropped, with a guest error.
    Thread: as the device.
    """

    def __init__(self, table: RegisterTable, device: object, name: str | None = None) -> None:
        """device: has the hooks. name: for traces, the table's by default.

        Raises DeclarationError if a register that is not stored has no read hook.
        """
        self.table = table
        self.name = table.name if name is None else name
        self._device = device
        self._values: dict[Reg, int] = {reg: reg.reset_value for reg in table.regs if reg.stored}
        self._bank = table.banks[0]
        self._tables: dict[str, tuple[list[tuple[int, Reader] | None], list[tuple[int, Writer] | None]]] = {}
        for bank in table.banks:
            readers: list[tuple[int, Reader] | None] = [None] * table.size
            writers: list[tuple[int, Writer] | None] = [None] * table.size
            for offset, (reg, index) in table.layout(bank, "read").items():
                readers[offset] = (reg.size, self._make_reader(reg, index))
            for offset, (reg, index) in table.layout(bank, "write").items():
                writers[offset] = (reg.size, self._make_writer(reg, index))
            self._tables[bank] = (readers, writers)
        self._readers, self._writers = self._tables[self._bank]

    # --- values for the device ------------------------------------------------------------------------------

    def __getitem__(self, reg: Reg) -> int:
        """Current value of a stored register; no read effects."""
        return self._values[reg]

    def __setitem__(self, reg: Reg, value: int) -> None:
        """Set a stored register from the device's side: any bit, no hooks."""
        if reg not in self._values:
            raise KeyError(f"{self.name}: {reg.name} is not stored")
        self._values[reg] = value & mask(reg.width)

    def get(self, reg: Reg, field: str) -> int:
        """One field of a stored register."""
        return reg.by_name[field].get(self._values[reg])

    def put(self, reg: Reg, field: str, value: int) -> None:
        """Set one field of a stored register, from the device's side."""
        self._values[reg] = reg.by_name[field].put(self._values[reg], value)

    @property
    def bank(self) -> str:
        """Name of the bank software sees."""
        return self._bank

    @bank.setter
    def bank(self, name: str) -> None:
        self._readers, self._writers = self._tables[name]
        self._bank = name

    def reset(self) -> None:
        """Every stored register to its reset value, first bank. No hooks."""
        for reg in self._values:
            self._values[reg] = reg.reset_value
        self.bank = self.table.banks[0]

    # --- access by software ---------------------------------------------------------------------------------

    def read(self, offset: int, size: int) -> int:
        """What software reads at `offset`."""
        entry = self._readers[offset] if 0 <= offset < len(self._readers) else None
        value = entry[1]() if entry is not None and entry[0] == size else self._read_other(offset, size)
        if register_read.on:
            register_read(self.name, offset, size, value)
        return value

    def write(self, offset: int, size: int, value: int) -> None:
        """Software writes the low `size` bytes of `value` at `offset`."""
        if register_write.on:
            register_write(self.name, offset, size, value)
        entry = self._writers[offset] if 0 <= offset < len(self._writers) else None
        if entry is not None and entry[0] == size:
            entry[1](value & ((1 << (8 * size)) - 1))
        else:
            self._write_other(offset, size, value)

    # --- save and load --------------------------------------------------------------------------------------

    def save(self) -> dict[str, int | str]:
        """Values of the stored registers by name, and the bank as `@bank`."""
        state: dict[str, int | str] = {reg.name: value for reg, value in self._values.items()}
        state["@bank"] = self._bank
        return state

    def load(self, state: Mapping[str, int | str]) -> None:
        """Take over what `save` returned; no hooks. Raises SavedStateError and changes nothing if it does
        not fit."""
        self.check(state)
        for reg in self._values:
            self._values[reg] = int(state[reg.name])
        self.bank = str(state["@bank"])

    def check(self, state: Mapping[str, int | str]) -> None:
        """Raises SavedStateError if `load` would."""
        expected = {reg.name for reg in self._values} | {"@bank"}
        if not isinstance(state, Mapping) or set(state) != expected:
            raise SavedStateError(self.name, f"registers are not {sorted(expected)}")
        if state["@bank"] not in self.table.banks:
            raise SavedStateError(self.name, f"no bank {state['@bank']!r}")
        for reg in self._values:
            value = state[reg.name]
            if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= mask(reg.width):
                raise SavedStateError(self.name, f"{reg.name} is not a {reg.width}-bit value: {value!r}")
            if value & reg.reserved_mask != reg.reserved_value:
                raise SavedStateError(self.name, f"{reg.name} = {value:#x} has wrong reserved bits")

    # --- making of the dispatch table -----------------------------------------------------------------------

    def _hook(self, kind: str, reg: Reg) -> Callable[..., int | None] | None:
        hook = getattr(self._device, f"on_{kind}_{reg.name.lower()}", None)
        if hook is not None and not callable(hook):
            raise DeclarationError(f"{self.name}: on_{kind}_{reg.name.lower()} is not a method")
        return hook

    def _make_reader(self, reg: Reg, index: int) -> Reader:
        hook = self._hook("read", reg)
        values = self._values
        readable = reg.read_mask
        fixed = reg.reserved_value
        if hook is None:
            if not reg.stored and readable:
                raise DeclarationError(f"{self.name}.{reg.name}: not stored, and no read hook")
            if not reg.stored:
                return lambda: fixed
            kept = mask(reg.width) & ~reg.rc_mask
            if reg.rc_mask:

                def read_and_clear() -> int:
                    value = values[reg]
                    values[reg] = value & kept
                    return (value & readable) | fixed

                return read_and_clear
            return lambda: (values[reg] & readable) | fixed
        call: Callable[..., int] = hook  # type: ignore[assignment]
        if reg.count > 1:
            return lambda: (call(index) & readable) | fixed
        if reg.stored and reg.rc_mask:
            clear = mask(reg.width) & ~reg.rc_mask

            def read_hook_and_clear() -> int:
                value = call()
                values[reg] &= clear
                return (value & readable) | fixed

            return read_hook_and_clear
        return lambda: (call() & readable) | fixed

    def _make_writer(self, reg: Reg, index: int) -> Writer:
        hook: Callable[..., int | None] | None = self._hook("write", reg)
        values = self._values
        where = f"{self.name}.{reg.name}"
        plain = reg.write_mask
        kept = mask(reg.width) & ~plain
        w1c = reg.w1c_mask
        w1s = reg.w1s_mask
        writable = plain | w1c | w1s
        reserved = reg.reserved_mask
        fixed = reg.reserved_value
        stored = reg.stored
        is_array = reg.count > 1

        def write(value: int) -> None:
            if reserved and value & reserved != fixed and guest_error.on:
                guest_error(where, f"write of {value:#x} sets reserved bits {(value & reserved) ^ fixed:#x}")
            if stored:
                new = (values[reg] & kept) | (value & plain)
                if w1c:
                    new &= ~(value & w1c)
                if w1s:
                    new |= value & w1s
                values[reg] = new
            else:
                new = value & writable
            if hook is not None:
                if is_array:
                    hook(index, new)
                else:
                    hook(new)

        return write

    # --- unusual accesses -----------------------------------------------------------------------------------

    def _covering(self, offset: int, size: int, direction: str) -> tuple[Reg, int, int] | None:
        """(register, its start, its index) if one register contains the access. Slow path only."""
        for start, (reg, index) in self.table.layout(self._bank, direction).items():
            if start <= offset and offset + size <= start + reg.size:
                return reg, start, index
        return None

    def _read_other(self, offset: int, size: int) -> int:
        covering = self._covering(offset, size, "read")
        if covering is not None and covering[0].narrow:
            start = covering[1]
            entry = self._readers[start]
            if entry is not None:
                return (entry[1]() >> (8 * (offset - start))) & mask(8 * size)
        if self.table.split and size > 1 and covering is None:
            value = 0
            position = 0
            while position < size:
                count = self._piece(self._readers, offset + position, size - position)
                value |= self.read(offset + position, count) << (8 * position)
                position += count
            return value
        if guest_error.on:
            guest_error(self.name, f"read of {size} bytes at offset {offset:#x}: no such register")
        return int.from_bytes(bytes([self.table.unmapped]) * size, "little")

    def _write_other(self, offset: int, size: int, value: int) -> None:
        covering = self._covering(offset, size, "write")
        if covering is not None and covering[0].narrow and covering[0].stored:
            reg, start, _ = covering
            entry = self._writers[start]
            shift = 8 * (offset - start)
            part = mask(8 * size) << shift
            # Bits outside the access: plain ones keep their value, write-one bits get the zero that does
            # nothing.
            rest = self._values[reg] & reg.write_mask | reg.reserved_value
            if entry is not None:
                entry[1]((rest & ~part) | ((value << shift) & part))
            return
        if self.table.split and size > 1 and covering is None:
            position = 0
            while position < size:
                count = self._piece(self._writers, offset + position, size - position)
                self.write(offset + position, count, (value >> (8 * position)) & mask(8 * count))
                position += count
            return
        if guest_error.on:
            guest_error(self.name, f"write of {size} bytes at offset {offset:#x}: no such register")

    @staticmethod
    def _piece(
        entries: list[tuple[int, Reader] | None] | list[tuple[int, Writer] | None], offset: int, limit: int
    ) -> int:
        """Bytes to take for the next part of a split access: the register at `offset`, or one byte."""
        entry = entries[offset] if 0 <= offset < len(entries) else None
        return entry[0] if entry is not None and entry[0] <= limit else 1
