"""Layouts -> encoders and decoders: straight-line Python, written and compiled when a layout is first used.

They are what makes a list of a thousand domains cost 0.3 ms to encode, measured on the machine of development.
The text compiled here is made of this module's own templates and the tables' numbers; no peer has a part in it.
Fields of fixed size that follow each other are packed by one `struct` call.
"""

from __future__ import annotations

import collections
import functools
import re
import struct
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from manor.base.errors import ProtocolError
from manor.rpc import xdr
from manor.rpc.protocol import params, records
from manor.rpc.xdr import EncodeError

FIXED = {
    "int": ("i", 4),
    "uint": ("I", 4),
    "long": ("q", 8),
    "ulong": ("Q", 8),
    "double": ("d", 8),
    "uuid": ("16s", 16),
}
"""Wire type -> (letter of `struct`, size in bytes)."""

MEMO_MAX = 1 << 15
"""References whose encoding is remembered."""

_ARRAY = re.compile(r"(.+)\[(:?)(\d*)\]\Z")
_BAD_VALUE = (struct.error, TypeError, ValueError, AttributeError, OverflowError)


class TupleCodec:
    """The codec of a sequence of fields. count: of the fields; type: the named tuple that `decode` returns."""

    def __init__(self, name: str, fields: Sequence[tuple[str, str]]) -> None:
        """fields: (name, wire type). Raises ValueError for a type that is not in the notation."""
        self.name = name
        self.count = len(fields)
        self._fields = fields
        self._type: type[tuple[Any, ...]] | None = None
        self._encode: Callable[[bytearray, Any], None] | None = None
        self._decode: Callable[[bytes], tuple[list[Any], int]] | None = None

    @property
    def type(self) -> type[tuple[Any, ...]]:
        """The named tuple of the fields."""
        if self._type is None:
            made: Any = collections.namedtuple(self.name, [name for name, _ in self._fields])  # type: ignore[misc]
            self._type = made
            return made
        return self._type

    def encode(self, values: Iterable[Any]) -> bytearray:
        """Raises EncodeError if the values do not fit."""
        if self._encode is None:
            self._encode = _Encoder(self._fields).compile(self.name)
        out = bytearray()
        try:
            self._encode(out, values)
        except _BAD_VALUE as error:
            raise EncodeError(f"{self.name}: {error}") from error
        except EncodeError as error:
            raise EncodeError(f"{self.name}: {error}") from error
        return out

    def decode(self, payload: bytes) -> tuple[Any, ...]:
        """Raises ProtocolError unless `payload` is exactly the fields."""
        if self._decode is None:
            self._decode = _Decoder(self._fields).compile(self.name)
        try:
            values, end = self._decode(payload)
        except struct.error as error:
            raise ProtocolError(f"{self.name}: the payload of {len(payload)} bytes is too short") from error
        except ProtocolError as error:
            raise ProtocolError(f"{self.name}: {error}") from error
        if end != len(payload):
            raise ProtocolError(f"{self.name}: {len(payload)} bytes, but the fields take {end}")
        return tuple.__new__(self.type, values)


class _Source:
    """Lines of a function under construction, and the names it needs."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.depth = 1
        self.names = 0
        self.globals: dict[str, Any] = {
            "PADDING": xdr.PADDING,
            "PACK_UINT": xdr.UINT.pack,
            "UNPACK_UINT": xdr.UINT.unpack_from,
            "EncodeError": EncodeError,
            "ProtocolError": ProtocolError,
            "new": tuple.__new__,
            "pack": struct.pack,
            "unpack_from": struct.unpack_from,
            **{name: getattr(xdr, name) for name in dir(xdr) if name.startswith(("encode_", "decode_", "refuse_"))},
            "encode_params": params.encode_params,
            "decode_params": params.decode_params,
            "encoded_domain": _encoded_domain,
        }

    def line(self, text: str) -> None:
        self.lines.append("    " * self.depth + text)

    def name(self) -> str:
        self.names += 1
        return f"v{self.names}"

    def constant(self, prefix: str, value: Any) -> str:
        name = f"{prefix}{len(self.globals)}"
        self.globals[name] = value
        return name

    def finish(self, name: str, signature: str) -> Any:
        text = "\n".join([f"def codec({signature}):", *self.lines, ""])
        exec(compile(text, f"<codec of {name}>", "exec"), self.globals)
        return self.globals["codec"]


class _Encoder(_Source):
    """Writes `codec(out, values)`: appends the fields of the tuple `values` to the bytearray `out`."""

    def __init__(self, fields: Sequence[tuple[str, str]]) -> None:
        super().__init__()
        self._fields = fields
        self._letters = ""
        self._pending: list[str] = []

    def compile(self, name: str) -> Callable[[bytearray, Any], None]:
        self._sequence([kind for _, kind in self._fields], "values")
        self._flush()
        self.line("return")
        made: Callable[[bytearray, Any], None] = self.finish(name, "out, values")
        return made

    def _sequence(self, kinds: Sequence[str], variable: str) -> None:
        names = [self.name() for _ in kinds]
        self.line(f"[{', '.join(names)}] = {variable}")
        for kind, name in zip(kinds, names, strict=True):
            self._value(kind, name)

    def _flush(self) -> None:
        if self._pending:
            packer = self.constant("PACK", struct.Struct(">" + self._letters).pack)
            self.line(f"out += {packer}({', '.join(self._pending)})")
            self._letters, self._pending = "", []

    def _fixed(self, letter: str, expression: str) -> None:
        self._letters += letter
        self._pending.append(expression)

    def _value(self, kind: str, name: str) -> None:
        if kind in FIXED:
            if kind == "uuid":
                self.line(f"if len({name}) != 16: raise EncodeError('a UUID has 16 bytes')")
            self._fixed(FIXED[kind][0], name)
        elif kind == "str":
            self.line(f"{name} = {name}.encode('utf-8', 'surrogateescape')")
            self.line(f"if 0 in {name}: raise EncodeError('a string must not contain NUL')")
            self._opaque(name)
        elif kind == "bytes":
            self._opaque(name)
        elif kind.endswith("?"):
            self._optional(kind[:-1], name)
        elif match := _ARRAY.match(kind):
            self._array(match[1], match[2], match[3], name)
        elif kind == "Domain":
            self._flush()
            self.line(f"out += encoded_domain(*{name})")
        elif kind in records.LAYOUTS:
            self._sequence([kind for _, kind in records.LAYOUTS[kind][1]], name)
        else:
            raise ValueError(f"{kind} is no wire type")

    def _opaque(self, name: str) -> None:
        size = self.name()
        self.line(f"{size} = len({name})")
        self.line(f"if {size} > {xdr.STRING_MAX}: raise EncodeError(f'{{{size}}} bytes are too many')")
        self._fixed("I", size)
        self._flush()
        self.line(f"out += {name}")
        self.line(f"out += PADDING[{size} & 3]")

    def _optional(self, kind: str, name: str) -> None:
        self._flush()
        self.line(f"if {name} is None: out += {bytes(4)!r}")
        self.line("else:")
        self.depth += 1
        self._fixed("I", "1")
        self._value(kind, name)
        self._flush()
        self.depth -= 1

    def _array(self, kind: str, colon: str, number: str, name: str) -> None:
        if kind in ("char", "text"):
            self._flush()
            self._chars(kind, number, name)
            return
        limit = int(number) if colon else xdr.ARRAY_MAX
        self.line(f"if len({name}) > {limit}: raise EncodeError(f'{{len({name})}} elements, at most {limit}')")
        self._fixed("I", f"len({name})")
        self._flush()
        if kind == "TypedParam":
            self.line(f"encode_params(out, {name})")
        elif kind in FIXED and kind != "uuid":
            self.line(f"out += pack(f'>{{len({name})}}{FIXED[kind][0]}', *{name})")
        else:
            item = self.name()
            self.line(f"for {item} in {name}:")
            self.depth += 1
            self._value(kind, item)
            self._flush()
            self.depth -= 1

    def _chars(self, kind: str, number: str, name: str) -> None:
        if kind == "text":
            self.line(f"out += encode_text({name}, {number or None})")
        elif number:
            self.line(f"if len({name}) != {number}: raise EncodeError('it has {number} bytes')")
            self.line(f"out += encode_chars({name})")
        else:
            self.line(f"out += PACK_UINT(len({name})) + encode_chars({name})")


class _Decoder(_Source):
    """Writes `codec(data)` -> (values, position after them)."""

    def __init__(self, fields: Sequence[tuple[str, str]]) -> None:
        super().__init__()
        self._fields = fields
        self._letters = ""
        self._size = 0
        self._pending: list[str] = []

    def compile(self, name: str) -> Callable[[bytes], tuple[list[Any], int]]:
        self.line("at = 0")
        names = self._sequence([kind for _, kind in self._fields])
        self._flush()
        self.line(f"return [{', '.join(names)}], at")
        made: Callable[[bytes], tuple[list[Any], int]] = self.finish(name, "data")
        return made

    def _sequence(self, kinds: Sequence[str]) -> list[str]:
        return [self._value(kind) for kind in kinds]

    def _flush(self) -> None:
        if self._pending:
            unpacker = self.constant("UNPACK", struct.Struct(">" + self._letters).unpack_from)
            self.line(f"[{', '.join(self._pending)}] = {unpacker}(data, at)")
            self.line(f"at += {self._size}")
            self._letters, self._size, self._pending = "", 0, []

    def _fixed(self, letter: str, size: int) -> str:
        name = self.name()
        self._letters += letter
        self._size += size
        self._pending.append(name)
        return name

    def _value(self, kind: str) -> str:
        """Write what reads a value; the variable it is in once the pending fields are flushed."""
        if kind in FIXED:
            return self._fixed(*FIXED[kind])
        if kind in ("str", "bytes"):
            return self._opaque(kind == "str")
        if kind.endswith("?"):
            return self._optional(kind[:-1])
        if match := _ARRAY.match(kind):
            return self._array(match[1], match[2], match[3])
        if kind in records.LAYOUTS:
            record, fields = records.LAYOUTS[kind]
            names = self._sequence([kind for _, kind in fields])
            self._flush()
            name = self.name()
            self.line(f"{name} = new({self.constant('RECORD', record)}, ({', '.join(names)},))")
            return name
        raise ValueError(f"{kind} is no wire type")

    def _opaque(self, is_text: bool) -> str:
        size = self._fixed("I", 4)
        self._flush()
        name = self.name()
        self.line(f"{name} = data[at : at + {size}]")
        self.line(f"if {size} > {xdr.STRING_MAX} or len({name}) != {size}: "
                  f"refuse_size({size}, {xdr.STRING_MAX}, at)")  # fmt: skip
        if is_text:
            self.line(f"if 0 in {name}: refuse_nul(at)")
            self.line(f"{name} = {name}.decode('utf-8', 'surrogateescape')")
        self.line(f"at += {size} + (-{size} & 3)")
        return name

    def _optional(self, kind: str) -> str:
        there = self._fixed("I", 4)
        self._flush()
        name = self.name()
        self.line(f"if {there} == 0: {name} = None")
        self.line(f"elif {there} != 1: raise ProtocolError(f'a choice of {{{there}}}', at)")
        self.line("else:")
        self.depth += 1
        value = self._value(kind)
        self._flush()
        self.line(f"{name} = {value}")
        self.depth -= 1
        return name

    def _array(self, kind: str, colon: str, number: str) -> str:
        if kind in ("char", "text"):
            return self._chars(kind, number)
        limit = int(number) if colon else xdr.ARRAY_MAX
        count = self._fixed("I", 4)
        self._flush()
        # No list is longer than the payload can fill: what a peer claims costs no memory before it is seen.
        self.line(f"if {count} > {limit} or {count} * {smallest(kind)} > len(data) - at: "
                  f"refuse_size({count}, {limit}, at)")  # fmt: skip
        name = self.name()
        if kind == "TypedParam":
            self.line(f"{name}, at = decode_params(data, at, {count})")
        elif kind in FIXED and kind != "uuid":
            letter, size = FIXED[kind]
            self.line(f"{name} = list(unpack_from(f'>{{{count}}}{letter}', data, at))")
            self.line(f"at += {count} * {size}")
        else:
            self.line(f"{name} = []")
            self.line(f"for _ in range({count}):")
            self.depth += 1
            value = self._value(kind)
            self._flush()
            self.line(f"{name}.append({value})")
            self.depth -= 1
        return name

    def _chars(self, kind: str, number: str) -> str:
        count = number or self._fixed("I", 4)
        self._flush()
        name = self.name()
        self.line(f"{name} = decode_{'text' if kind == 'text' else 'chars'}(data, at, {count})")
        self.line(f"at += 4 * {count}")
        return name


def smallest(kind: str) -> int:
    """Bytes that a value of this wire type takes at least."""
    if kind in FIXED:
        return FIXED[kind][1]
    if kind == "TypedParam":
        return 12
    match = _ARRAY.match(kind)
    if match and match[3] and not match[2]:
        return 4 * int(match[3])
    if kind in records.LAYOUTS:
        return sum(smallest(field) for _, field in records.LAYOUTS[kind][1])
    return 4


@functools.lru_cache(maxsize=MEMO_MAX)
def _encoded_domain(name: str, uuid: bytes, number: int) -> bytes:
    """A reference to a domain: lists and statistics of thousands consist of them, always the same."""
    return bytes(_DOMAIN.encode((name, uuid, number)))


_DOMAIN = TupleCodec("domain", records.LAYOUTS["Domain"][1])
