"""Fixed layouts of fields in bytes, declared once for writers and readers."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any


class Record:
    """A structure on disk: name -> (offset in bytes, format of the struct module without byte order)."""

    def __init__(self, size: int, fields: Mapping[str, tuple[int, str]], *, order: str = "<") -> None:
        self.size = size
        self._fields = {name: (offset, struct.Struct(order + form)) for name, (offset, form) in fields.items()}

    def pack(self, **values: Any) -> bytearray:
        """The structure with these fields; all others are zero. A tuple fills a field that is an array."""
        data = bytearray(self.size)
        for name, value in values.items():
            offset, form = self._fields[name]
            form.pack_into(data, offset, *(value if isinstance(value, tuple) else (value,)))
        return data

    def unpack(self, data: bytes | bytearray | memoryview) -> dict[str, Any]:
        """All fields of `data`, which is at least `size` bytes long; an array is a tuple."""
        found = {}
        for name, (offset, form) in self._fields.items():
            values = form.unpack_from(data, offset)
            found[name] = values[0] if len(values) == 1 else values
        return found
