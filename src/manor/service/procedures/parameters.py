"""Typed parameters as fields of declared elements: one table says both how they are shown and how they are set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar

from manor.domain.xml.property import Element, schema
from manor.drivers.errors import invalid_argument
from manor.rpc.protocol.records import ParamType, TypedParam

E = TypeVar("E", bound=Element)

INT, UINT, LLONG, ULLONG, STRING = (
    int(each) for each in (ParamType.INT, ParamType.UINT, ParamType.LLONG, ParamType.ULLONG, ParamType.STRING)
)
_NUMBERS: Final = frozenset({ParamType.INT, ParamType.UINT, ParamType.LLONG, ParamType.ULLONG})


@dataclass(frozen=True, slots=True)
class Field:
    """One parameter. attribute: of the element. unit: how much of the attribute one of it is. absent: what stands for
    an attribute that is not set, and takes it away; is_shown_absent: whether it is answered then. words: texts of the
    attribute, numbered as libvirt does."""

    name: str
    type: ParamType
    attribute: str
    unit: int = 1
    absent: int | str = 0
    words: tuple[str, ...] = ()
    is_shown_absent: bool = True


def shown(element: Element | None, fields: Sequence[Field]) -> list[TypedParam]:
    """As `element` has them."""
    found = []
    for field in fields:
        value = None if element is None else getattr(element, field.attribute)
        if value is None:
            if not field.is_shown_absent:
                continue
            value = field.absent
        elif field.words:
            value = field.words.index(value)
        elif isinstance(value, int):
            value //= field.unit
        found.append(TypedParam(field.name, int(field.type), value))
    return found


def changed(element: E | None, cls: type[E], params: Sequence[TypedParam], fields: Sequence[Field]) -> E | None:
    """`element` with `params` set; None if then nothing is. Raises ApiError for what cannot be set."""
    known = {field.name: field for field in fields}
    values: dict[str, Any] = {}
    for param in params:
        field = known.get(param.field)
        if field is None or param.type != field.type:
            if field is not None:
                raise invalid_argument(f"invalid type for parameter '{field.name}'")
            names = ", ".join(known)
            raise invalid_argument(f"parameter '{param.field}' is not supported; there are {names}")
        values[field.attribute] = _value(cls, field, param)
    result = replace(cls() if element is None else element, **values)
    return None if result == cls() else result


def answer(rows: list[TypedParam], room: int) -> tuple[list[TypedParam], int]:
    """Clients ask with no room first, to hear how much they need."""
    return ([], len(rows)) if room == 0 else (rows[:room], min(len(rows), room))


def _value(cls: type[Element], field: Field, param: TypedParam) -> object:
    value: Any = param.value
    if field.type in _NUMBERS:
        if isinstance(value, bool) or not isinstance(value, int):
            raise invalid_argument(f"parameter '{field.name}' is a number")
    elif not isinstance(value, str):
        raise invalid_argument(f"parameter '{field.name}' is a text")
    if field.words:
        if not 0 <= value < len(field.words):
            raise invalid_argument(f"{field.name}: {value} is unknown; give 0 to {len(field.words) - 1}")
        return field.words[value]
    if value == field.absent or (isinstance(field.absent, int) and field.absent > 0 and value > field.absent):
        return None
    if isinstance(value, int):
        value *= field.unit
    kind = next(one.kind for one in schema(cls).properties if one.name == field.attribute)
    assert kind is not None
    try:
        return kind.read(kind.show(value), getattr(kind, "shown", None))
    except ValueError as error:
        raise invalid_argument(f"{field.name}: {error}") from error
