"""Records of a state as JSON, and back: dataclasses of numbers, text, bytes, and containers of them.

    plain(record)                   values that json.dumps takes
    read(LapicState, value, "...")  the record again; each field is checked against its declared type

A dataclass becomes an object of its fields, a tuple or list a list, bytes {"hex": ...}, a mapping a list of pairs (its
keys may be numbers). A field that is declared as `object` is read as what `like`, a record of the same kind, has there:
so nothing in a file chooses a type. What comes from a file is data; no code is run for it.
"""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Mapping
from typing import Any, Final, TypeVar

from manor.base.errors import ProtocolError

T = TypeVar("T")
_MISSING: Final = object()
_HEX: Final = "hex"


def plain(value: object) -> Any:
    """`value` for json.dumps. Raises TypeError for what is no part of a record."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (bytes, bytearray)):
        return {_HEX: value.hex()}
    if isinstance(value, (tuple, list)):
        return [plain(each) for each in value]
    if isinstance(value, Mapping):
        return [[plain(key), plain(each)] for key, each in value.items()]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    raise TypeError(f"{type(value).__name__} is no part of a record")


def read(kind: type[T], value: object, path: str, like: object = _MISSING) -> T:
    """The record of type `kind` in `value`, which json.loads gave. path: names it in errors. like: see above.

    Raises ProtocolError, naming the field.
    """
    record: T = _read(kind, value, path, like)
    return record


@functools.cache
def _fields(kind: type) -> dict[str, Any]:
    return {name: hint for name, hint in typing.get_type_hints(kind).items() if name in kind.__dataclass_fields__}  # type: ignore[attr-defined]


def _wrong(path: str, value: object, wanted: str) -> ProtocolError:
    return ProtocolError(f"{path}: {str(value)[:60]!r} is not {wanted}")


def _read(kind: Any, value: Any, path: str, like: object) -> Any:
    if kind is object or kind is Any:
        if like is _MISSING:
            raise TypeError(f"{path}: nothing says what it is")
        return _read_like(value, path, like)
    origin = typing.get_origin(kind)
    if origin in (types.UnionType, typing.Union):
        return _read_union(typing.get_args(kind), value, path, like)
    if origin is typing.Literal:
        if value not in typing.get_args(kind):
            raise _wrong(path, value, f"one of {', '.join(map(str, typing.get_args(kind)))}")
        return value
    if origin in (tuple, list):
        return _read_sequence(origin, typing.get_args(kind), value, path, like)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return _read_mapping(typing.get_args(kind), value, path)
    if kind is types.NoneType:
        if value is not None:
            raise _wrong(path, value, "nothing")
        return None
    if kind is bytes:
        return _read_bytes(value, path)
    if dataclasses.is_dataclass(kind):
        return _read_dataclass(typing.cast(type, kind), value, path, like)
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        raise _wrong(path, value, f"of type {kind.__name__}")
    return value


def _read_like(value: Any, path: str, like: object) -> Any:
    """A value of whatever type `like` has."""
    if isinstance(like, tuple):
        if not isinstance(value, list) or len(value) != len(like):
            raise _wrong(path, value, f"a list of {len(like)}")
        return tuple(
            _read_like(each, f"{path}[{index}]", old)
            for index, (each, old) in enumerate(zip(value, like, strict=True))
        )
    return _read(type(like), value, path, like)


def _read_union(kinds: tuple[Any, ...], value: Any, path: str, like: object) -> Any:
    if value is None and types.NoneType in kinds:
        return None
    failure: ProtocolError | None = None
    for kind in kinds:
        if kind is types.NoneType:
            continue
        try:
            return _read(kind, value, path, _MISSING if like is None else like)
        except ProtocolError as error:
            failure = failure or error
    raise failure or _wrong(path, value, "nothing")


def _read_sequence(origin: type, kinds: tuple[Any, ...], value: Any, path: str, like: object) -> Any:
    if not isinstance(value, list):
        raise _wrong(path, value, "a list")
    if origin is tuple and (len(kinds) != 2 or kinds[1] is not Ellipsis):
        if len(value) != len(kinds):
            raise _wrong(path, value, f"a list of {len(kinds)}")
        each_kind = kinds
    else:
        each_kind = (kinds[0],) * len(value)
    old = like if isinstance(like, (tuple, list)) and len(like) == len(value) else (_MISSING,) * len(value)
    return origin(
        _read(kind, each, f"{path}[{index}]", before)
        for index, (kind, each, before) in enumerate(zip(each_kind, value, old, strict=True))
    )


def _read_mapping(kinds: tuple[Any, ...], value: Any, path: str) -> dict[Any, Any]:
    if not isinstance(value, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in value):
        raise _wrong(path, value, "a list of pairs")
    return {
        _read(kinds[0], key, f"{path} key", _MISSING): _read(kinds[1], each, f"{path}[{key}]", _MISSING)
        for key, each in value
    }


def _read_bytes(value: Any, path: str) -> bytes:
    text = value.get(_HEX) if isinstance(value, dict) and len(value) == 1 else None
    try:
        return bytes.fromhex(text if isinstance(text, str) else "?")
    except ValueError as error:
        raise _wrong(path, value, "bytes") from error


def _read_dataclass(kind: type, value: Any, path: str, like: object) -> Any:
    fields = _fields(kind)
    if not isinstance(value, dict) or value.keys() != fields.keys():
        raise _wrong(path, value, f"an object of {', '.join(fields)}")
    is_alike = type(like) is kind
    return kind(
        **{
            name: _read(hint, value[name], f"{path}.{name}", getattr(like, name) if is_alike else _MISSING)
            for name, hint in fields.items()
        }
    )
