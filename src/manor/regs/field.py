"""Fields, registers and tables of them; every contradiction is rejected when the module is imported.

    LSR = Reg("LSR", 5, access=RO, source="PC16550D, 8.4", fields=(
        Field("dr", 0), Field("oe", 1, access=RC), ..., Field("thre", 5, reset=1)))

Bits are given as lsb and width; masks are computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from manor.base.bits import mask
from manor.regs.access import RW, Access

_MASKS = {"read": Access.R, "write": Access.W, "w1c": Access.W1C, "w1s": Access.W1S, "rc": Access.RC}


class DeclarationError(ValueError):
    """A register declaration contradicts itself. Raised at import: the mistake is in the source."""


@dataclass(frozen=True, slots=True)
class Field:
    """Bits [lsb, lsb + width) of a register.

    access: None means the register's. reset: value after reset. A reserved field reads as `reset`, and
    writing anything else to it is a guest error. values: names of encodings, for the reference.
    """

    name: str
    lsb: int
    width: int = 1
    access: Access | None = None
    reset: int = 0
    doc: str = ""
    values: tuple[tuple[int, str], ...] = ()

    @property
    def mask(self) -> int:
        """The field's bits, in place."""
        return mask(self.width, self.lsb)

    def get(self, value: int) -> int:
        """The field's part of a register value."""
        return (value >> self.lsb) & ((1 << self.width) - 1)

    def put(self, value: int, part: int) -> int:
        """A register value with this field replaced."""
        ones = mask(self.width, self.lsb)
        return (value & ~ones) | ((part << self.lsb) & ones)


def reserved(lsb: int, width: int = 1, value: int = 0) -> Field:
    """Bits without meaning; they read as `value`."""
    return Field("", lsb, width, Access.RESERVED, value)


@dataclass(frozen=True, slots=True, eq=False)
class Reg:
    """One register, or `count` equal ones `stride` bytes apart (`isr0`, `isr1`, …; hooks then get the index).

    offset: bytes from the start of its table. width: bits, a multiple of 8.
    bank: None if visible in every bank of its table.
    fields: none means one field of full width named `value`, with the register's access and reset.
    stored: the block keeps the value. Otherwise reads need the hook on_read_<name> (a write-only register
    needs none) and on_write_<name> gets every write. Arrays are never stored.
    narrow: accesses smaller than the register are answered; see RegisterBlock.
    Compared by identity: a Reg is a key.
    """

    name: str
    offset: int
    width: int = 8
    access: Access = RW
    fields: tuple[Field, ...] = ()
    reset: int = 0
    bank: str | None = None
    stored: bool = True
    count: int = 1
    stride: int = 0
    narrow: bool = True
    source: str = ""
    doc: str = ""
    # Computed, so that nobody types a mask.
    read_mask: int = field(init=False, default=0)
    write_mask: int = field(init=False, default=0)
    w1c_mask: int = field(init=False, default=0)
    w1s_mask: int = field(init=False, default=0)
    rc_mask: int = field(init=False, default=0)
    reserved_mask: int = field(init=False, default=0)
    reserved_value: int = field(init=False, default=0)
    reset_value: int = field(init=False, default=0)
    by_name: dict[str, Field] = field(init=False, default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if self.width <= 0 or self.width % 8:
            raise DeclarationError(f"{self.name}: width {self.width} is not a positive multiple of 8")
        if self.offset < 0:
            raise DeclarationError(f"{self.name}: negative offset {self.offset}")
        if self.count < 1 or (self.count > 1 and (self.stored or self.stride < self.size)):
            raise DeclarationError(f"{self.name}: an array needs a stride of its size and stored=False")
        fields = self.fields or (Field("value", 0, self.width, self.access, self.reset),)
        if self.fields and self.reset:
            raise DeclarationError(f"{self.name}: reset belongs to the fields")
        used = 0
        totals = dict.fromkeys((*_MASKS, "reserved", "reserved_value", "reset"), 0)
        resolved = []
        for item in fields:
            access = self.access if item.access is None else item.access
            item = Field(item.name, item.lsb, item.width, access, item.reset, item.doc, item.values)
            self._check(item, used)
            resolved.append(item)
            ones = item.mask
            used |= ones
            value = item.reset << item.lsb
            totals["reset"] |= value
            if not access:
                totals["reserved"] |= ones
                totals["reserved_value"] |= value
            else:
                self.by_name[item.name] = item
            for key, kind in _MASKS.items():
                if access & kind:
                    totals[key] |= ones
        missing = mask(self.width) & ~used
        if missing:
            raise DeclarationError(f"{self.name}: bits {missing:#x} are neither declared nor reserved")
        object.__setattr__(self, "fields", tuple(resolved))
        for key in (*_MASKS, "reserved"):
            object.__setattr__(self, f"{key}_mask", totals[key])
        object.__setattr__(self, "reserved_value", totals["reserved_value"])
        object.__setattr__(self, "reset_value", totals["reset"])

    def _check(self, item: Field, used: int) -> None:
        where = f"{self.name}.{item.name or 'reserved'}"
        if item.lsb < 0 or item.width < 1 or item.lsb + item.width > self.width:
            raise DeclarationError(f"{where}: bits [{item.lsb}, +{item.width}) are outside {self.width} bits")
        if item.mask & used:
            raise DeclarationError(f"{where}: bits {item.mask & used:#x} overlap another field")
        if item.reset >> item.width:
            raise DeclarationError(f"{where}: reset value {item.reset:#x} does not fit {item.width} bits")
        if item.name and item.name in self.by_name:
            raise DeclarationError(f"{where}: declared twice")
        access = item.access
        if access is not None and access and not access & (Access.R | Access.W | Access.W1C | Access.W1S):
            raise DeclarationError(f"{where}: neither readable nor writable")
        if access is not None and sum(kind in access for kind in (Access.W, Access.W1C, Access.W1S)) > 1:
            raise DeclarationError(f"{where}: more than one way of writing")

    @property
    def size(self) -> int:
        """Bytes of one element."""
        return self.width // 8

    @property
    def is_readable(self) -> bool:
        """Whether software may read any bit (or only finds reserved ones)."""
        return bool(self.read_mask) or not self.is_writable

    @property
    def is_writable(self) -> bool:
        """Whether writing any bit may have an effect."""
        return bool(self.write_mask | self.w1c_mask | self.w1s_mask)

    def field(self, name: str) -> Field:
        """The field `name`. Raises KeyError."""
        return self.by_name[name]

    def mask(self, *names: str) -> int:
        """Bits of the named fields, in place. Raises KeyError."""
        bits = 0
        for name in names:
            bits |= self.by_name[name].mask
        return bits


class RegisterTable:
    """The registers of one device interface, checked against each other.

    size: bytes of the address range. banks: names, the first is active after reset.
    split: an access that is no register's is taken apart into accesses to the registers under it, in
    ascending order (what an 8-bit device does on a wider bus); otherwise it is a guest error.
    unmapped: what a byte without a register reads as (a guest error too).
    """

    def __init__(
        self,
        name: str,
        size: int,
        regs: Sequence[Reg],
        *,
        banks: Sequence[str] = ("",),
        split: bool = False,
        unmapped: int = 0,
        source: str = "",
    ) -> None:
        self.name = name
        self.size = size
        self.regs = tuple(regs)
        self.banks = tuple(banks)
        self.split = split
        self.unmapped = unmapped
        self.source = source
        self.by_name: dict[str, Reg] = {}
        for reg in self.regs:
            if reg.name in self.by_name:
                raise DeclarationError(f"{name}: register {reg.name} is declared twice")
            self.by_name[reg.name] = reg
            if reg.bank is not None and reg.bank not in self.banks:
                raise DeclarationError(f"{name}.{reg.name}: no bank {reg.bank!r} in {self.banks}")
            end = reg.offset + (reg.count - 1) * reg.stride + reg.size
            if end > size:
                raise DeclarationError(f"{name}.{reg.name}: ends at {end:#x}, the range has {size:#x} bytes")
        for bank in self.banks:
            for direction in ("read", "write"):
                self.layout(bank, direction)

    def layout(self, bank: str, direction: str) -> dict[int, tuple[Reg, int]]:
        """offset -> (register, index) for reads or writes in one bank. Raises DeclarationError on overlap."""
        owners: dict[int, Reg] = {}
        starts: dict[int, tuple[Reg, int]] = {}
        for reg in self.regs:
            if reg.bank not in (None, bank):
                continue
            if not (reg.is_readable if direction == "read" else reg.is_writable):
                continue
            for index in range(reg.count):
                start = reg.offset + index * reg.stride
                for offset in range(start, start + reg.size):
                    if offset in owners:
                        raise DeclarationError(
                            f"{self.name}.{reg.name}: {direction} at offset {offset:#x} overlaps "
                            f"{owners[offset].name}" + (f" in bank {bank}" if bank else "")
                        )
                    owners[offset] = reg
                starts[start] = (reg, index)
        return starts
