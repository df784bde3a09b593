"""A machine's description as JSON, from one process to another. What is read is checked field by field.

Every dataclass becomes an object of its fields, a path its text, a tuple a list.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import types
import typing
from pathlib import Path
from typing import Any, TypeVar

from manor.base.errors import ConfigError, ProtocolError
from manor.spec.machine import MachineSpec

T = TypeVar("T")


def spec_to_json(spec: MachineSpec) -> str:
    """`spec` as text."""
    return json.dumps(_plain(spec), indent=1)


def spec_from_json(text: str) -> MachineSpec:
    """The inverse. Raises ProtocolError for text that is none, ConfigError for a field that is wrong."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"a machine's description is not JSON: {error}") from error
    spec = _build(MachineSpec, value, "machine")
    assert isinstance(spec, MachineSpec)
    return spec


def part_to_json(part: object) -> dict[str, Any]:
    """A part of a description, such as a DiskSpec, as a JSON object."""
    value: dict[str, Any] = _plain(part)
    return value


def part_from_json(kind: type[T], value: object, path: str) -> T:
    """A part of a description, such as a DiskSpec, from its JSON object. Raises ConfigError, naming `path`."""
    part = _build(kind, value, path)
    assert isinstance(part, kind)
    return part


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    return value


@functools.cache
def _kinds(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _build(kind: Any, value: Any, path: str) -> Any:
    origin = typing.get_origin(kind)
    if origin in (types.UnionType, typing.Union):
        choices = [each for each in typing.get_args(kind) if each is not type(None)]
        return None if value is None else _build(choices[0], value, path)
    if origin is typing.Literal:
        if value not in typing.get_args(kind):
            raise ConfigError(path, f"{value!r} is none of {', '.join(map(str, typing.get_args(kind)))}")
        return value
    if origin is tuple:
        if not isinstance(value, list):
            raise ConfigError(path, "it is not a list")
        return tuple(_build(typing.get_args(kind)[0], each, f"{path}[{index}]") for index, each in enumerate(value))
    if dataclasses.is_dataclass(kind):
        known = _kinds(typing.cast(type, kind))
        if not isinstance(value, dict) or not known.keys() >= value.keys():
            raise ConfigError(path, f"it is not an object of {', '.join(known)}")
        try:
            return typing.cast(Any, kind)(
                **{name: _build(known[name], each, f"{path}.{name}") for name, each in value.items()}
            )
        except TypeError as error:
            raise ConfigError(path, str(error)) from error
    if kind is Path:
        kind, value = Path, Path(value) if isinstance(value, str) else value
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ConfigError(path, f"{value!r} is not of type {kind.__name__}")
    return value
