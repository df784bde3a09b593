"""Typed parameters: lists of (field, type, value), the protocol's way to add facts without new procedures.

They are most of what statistics are made of, so their names are encoded and decoded once each.
Source of the types: libvirt API reference, virTypedParameterType.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Iterable

from manor.base.errors import ProtocolError
from manor.rpc import xdr
from manor.rpc.protocol.records import ParamType, TypedParam

FIELD_MAX = 79
"""Bytes of a field's name. Source: libvirt API reference, VIR_TYPED_PARAM_FIELD_LENGTH, less its NUL."""

_STRING = int(ParamType.STRING)
_BOOLEAN = int(ParamType.BOOLEAN)
_LETTERS = {
    ParamType.INT: "i",
    ParamType.UINT: "I",
    ParamType.LLONG: "q",
    ParamType.ULLONG: "Q",
    ParamType.DOUBLE: "d",
    ParamType.BOOLEAN: "i",
}
_PACK = {int(kind): struct.Struct(f">{letter}").pack for kind, letter in _LETTERS.items()}
_UNPACK = {int(kind): struct.Struct(f">{letter}") for kind, letter in _LETTERS.items()}


@functools.lru_cache(maxsize=4096)
def _head(field: str, kind: int) -> bytes:
    """The name and the union's discriminant. Raises EncodeError."""
    if kind not in _PACK and kind != _STRING:
        raise xdr.EncodeError(f"{field}: {kind} is no type of a typed parameter")
    return xdr.encode_string(field, FIELD_MAX) + xdr.UINT.pack(kind)


@functools.lru_cache(maxsize=4096)
def _name(raw: bytes) -> str:
    """The inverse of the name's encoding. Raises ProtocolError."""
    if 0 in raw:
        raise ProtocolError("the name of a typed parameter contains NUL")
    return raw.decode("utf-8", "surrogateescape")


class Prepared(tuple[TypedParam, ...]):
    """Parameters that are sent again and again, with their encoding: those of every domain that does not run."""

    data: bytes

    def __new__(cls, params: Iterable[TypedParam]) -> Prepared:
        """Raises EncodeError, or what `struct` raises for a value that is none."""
        made = super().__new__(cls, params)
        out = bytearray()
        encode_params(out, tuple(made))
        made.data = bytes(out)
        return made


def encode_params(out: bytearray, params: Iterable[tuple[str, int, int | float | bool | str]]) -> None:
    """Append the parameters (not their count). Raises EncodeError, or what `struct` raises for a value that is none."""
    if type(params) is Prepared:
        out += params.data
        return
    for field, kind, value in params:
        out += _head(field, kind)
        if kind == _STRING:
            out += xdr.encode_string(value)  # type: ignore[arg-type]
        else:
            out += _PACK[kind](value)


def decode_params(data: bytes, at: int, count: int) -> tuple[list[TypedParam], int]:
    """(parameters, position after them). Raises ProtocolError, struct.error."""
    found = []
    new = tuple.__new__
    size_of = xdr.UINT.unpack_from
    for _ in range(count):
        (size,) = size_of(data, at)
        if size > FIELD_MAX:
            xdr.refuse_size(size, FIELD_MAX, at)
        at += 4
        field = _name(data[at : at + size])
        at += size + (-size & 3)
        (kind,) = size_of(data, at)
        at += 4
        value: int | float | bool | str
        if kind == _STRING:
            value, at = xdr.decode_string(data, at)
        else:
            unpacker = _UNPACK.get(kind)
            if unpacker is None:
                raise ProtocolError(f"{field}: {kind} is no type of a typed parameter", at)
            (value,) = unpacker.unpack_from(data, at)
            at += unpacker.size
            if kind == _BOOLEAN:
                value = bool(value)
        found.append(new(TypedParam, (field, kind, value)))
    return found, at
