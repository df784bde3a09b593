"""Name or number -> `Procedure`: what is called, with what, by whom. Codecs are made when first asked for.

The notation of the tables, one procedure an item, continued by lines that start with a space:

    number name permissions [words] | field:type ... -> field:type ...
    number name event | field:type ...

permissions: libvirt's `object:verb`, several with commas, or `none`. One that depends on the arguments has its
    condition before it: `flags&1?domain:read-secure`, `source=1?domain:write`.
words: `up`, `down`, `both`: the call opens a stream, data flowing to the server, to the client, or both ways;
    `fds-in`, `fds-out`: file descriptors come with the call or the reply; `quick`: never waits for a hypervisor, disk
    or guest.
types: int, uint (32 bits), long, ulong (64 bits), double, str, bytes, uuid, a record's name. `T?` may be absent; `T[]`
    is any number of T; `T[:65536]` states a higher limit than the usual one. libvirt sends each char of a char array in
    four bytes: `char[]` and `char[N]` are bytes sent so, `text[]` and `text[N]` strings sent so that end with a NUL.

How values look: the arguments are a tuple with names. A result of no field is None, of one field that field itself, of
several a tuple with names.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from manor.rpc.protocol import codec, own_records  # noqa: F401 - declares records
from manor.rpc.xdr import EncodeError

SUBJECTS = (
    "connect", "listing", "node", "node_device", "domain", "domain_tuning", "snapshot", "migration", "network",
    "interface", "storage", "secret", "nwfilter", "event",
)  # fmt: skip

_STREAMS = ("up", "down", "both")
_FILES = ("fds-in", "fds-out")
_READ_VERBS = ("getattr", "read")


class Field(NamedTuple):
    """A field of the arguments or the result. type: as in the notation."""

    name: str
    type: str


class Permission(NamedTuple):
    """libvirt's `object:verb`. condition: None, or (argument, operator `&` or `=`, number) under which it is needed."""

    object: str
    verb: str
    condition: tuple[str, str, int] | None = None

    @property
    def is_read(self) -> bool:
        """Whether a read-only connection has it: nothing secret is told, nothing changed, no guest agent asked."""
        return self.verb in _READ_VERBS or self.verb.startswith("search-")

    def __str__(self) -> str:
        return f"{self.object}:{self.verb}"


class Procedure:
    """One procedure or event message of a program. Immutable; what costs time is derived on first use.

    permissions: all that a caller needs; empty for `none`.
    stream: "", "up", "down" or "both"; files: "", "fds-in" or "fds-out".
    is_quick: never waits for a hypervisor, disk or guest, so it may pass slow calls of the same connection.
    """

    __slots__ = (
        "_arguments", "_arguments_codec", "_permissions", "_result_codec", "_results", "files", "is_event", "is_quick",
        "name", "number", "program", "stream",
    )  # fmt: skip

    def __init__(self, program: Program, head: str, arguments: str, results: str) -> None:
        number, self.name, permissions, *words = head.split()
        self.program = program
        self.number = int(number)
        self.is_event = permissions == "event"
        self.is_quick = "quick" in words
        self.stream = next((word for word in words if word in _STREAMS), "")
        self.files = next((word for word in words if word in _FILES), "")
        self._permissions = "none" if self.is_event else permissions
        self._arguments = arguments
        self._results = results
        self._arguments_codec: codec.TupleCodec | None = None
        self._result_codec: codec.TupleCodec | None = None

    def __repr__(self) -> str:
        return f"<Procedure {self.number} {self.name}>"

    @property
    def permissions(self) -> tuple[Permission, ...]:
        """What a caller needs, conditions included."""
        if self._permissions == "none":
            return ()
        return tuple(_permission(word) for word in self._permissions.split(","))

    @property
    def arguments(self) -> tuple[Field, ...]:
        """The arguments, or what an event message carries."""
        return _fields(self._arguments)

    @property
    def results(self) -> tuple[Field, ...]:
        """The result's fields."""
        return _fields(self._results)

    @property
    def is_read_only(self) -> bool:
        """Whether a read-only connection may call it, conditions left aside."""
        return all(permission.is_read for permission in self.permissions if permission.condition is None)

    def missing_for_read_only(self, arguments: tuple[Any, ...]) -> Permission | None:
        """The permission that a read-only connection lacks for this call, None if it may make it."""
        for permission in self.permissions:
            if permission.is_read:
                continue
            if permission.condition is None:
                return permission
            name, operator, number = permission.condition
            value = getattr(arguments, name)
            if value & number if operator == "&" else value == number:
                return permission
        return None

    @property
    def arguments_type(self) -> type[tuple[Any, ...]]:
        """The named tuple that decoded arguments are; its fields are `arguments`."""
        return self._codec_of_arguments().type

    def encode_arguments(self, values: Iterable[Any]) -> bytearray:
        """The payload of a call or an event. values: in the order of `arguments`. Raises EncodeError."""
        return self._codec_of_arguments().encode(values)

    def decode_arguments(self, payload: bytes) -> Any:
        """The named tuple of a call's or event's payload. Raises ProtocolError unless it is exactly that."""
        return self._codec_of_arguments().decode(payload)

    def encode_result(self, value: Any) -> bytearray:
        """The payload of a reply; `value` as the module describes. Raises EncodeError."""
        made = self._codec_of_result()
        if made.count == 1:
            return made.encode((value,))
        if made.count == 0 and value is not None:
            raise EncodeError(f"{self.name} has no result, but {type(value).__name__} was given")
        return made.encode(() if value is None else value)

    def decode_result(self, payload: bytes) -> Any:
        """The value of a reply's payload, as the module describes. Raises ProtocolError unless it is exactly that."""
        made = self._codec_of_result()
        values = made.decode(payload)
        if made.count == 1:
            return values[0]
        return values if made.count else None

    def _codec_of_arguments(self) -> codec.TupleCodec:
        if self._arguments_codec is None:
            self._arguments_codec = codec.TupleCodec(f"{self.name}_arguments", self.arguments)
        return self._arguments_codec

    def _codec_of_result(self) -> codec.TupleCodec:
        if self._result_codec is None:
            self._result_codec = codec.TupleCodec(f"{self.name}_result", self.results)
        return self._result_codec


class Program(Mapping[str, Procedure]):
    """A program: procedures by name; `by_number` has them by number."""

    def __init__(self, name: str, number: int, version: int, tables: Iterable[str]) -> None:
        """tables: in the notation of this module. Raises ValueError for a name or number that occurs twice."""
        self.name = name
        self.number = number
        self.version = version
        self.by_number: dict[int, Procedure] = {}
        self._by_name: dict[str, Procedure] = {}
        for table in tables:
            for item in table.replace("\n ", " ").splitlines():
                if item:
                    head, _, layout = item.partition("|")
                    arguments, _, results = layout.partition("->")
                    self._add(Procedure(self, head, arguments, results))

    def _add(self, procedure: Procedure) -> None:
        if procedure.number in self.by_number or procedure.name in self._by_name:
            raise ValueError(f"{self.name}: {procedure.name} or number {procedure.number} is declared twice")
        self.by_number[procedure.number] = procedure
        self._by_name[procedure.name] = procedure

    def __getitem__(self, name: str) -> Procedure:
        return self._by_name[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_name)

    def __len__(self) -> int:
        return len(self._by_name)


def _fields(text: str) -> tuple[Field, ...]:
    return tuple(Field(*word.split(":", 1)) for word in text.split())


def _permission(word: str) -> Permission:
    condition = None
    if "?" in word:
        test, _, word = word.partition("?")
        operator = "&" if "&" in test else "="
        name, _, number = test.partition(operator)
        condition = (name, operator, int(number))
    kind, _, verb = word.partition(":")
    return Permission(kind, verb, condition)


def _tables(*subjects: str) -> Iterator[str]:
    for subject in subjects:
        table: str = importlib.import_module(f"manor.rpc.protocol.tables.{subject}").TABLE
        yield table


REMOTE = Program("remote", 0x20008086, 1, _tables(*SUBJECTS))
"""libvirt's remote program: everything but what one hypervisor driver alone has."""

QEMU = Program("qemu", 0x20008087, 1, ["""
1 qemu_domain_monitor_command domain:write | domain:Domain command:str flags:uint -> result:str
2 qemu_domain_attach domain:start,domain:write | pid:uint flags:uint -> domain:Domain
3 qemu_domain_agent_command domain:write | domain:Domain command:str timeout:int flags:uint -> result:str?
4 qemu_connect_domain_monitor_event_register connect:search-domains,connect:write |
    domain:Domain? event:str? flags:uint -> callback_id:int
5 qemu_connect_domain_monitor_event_deregister connect:write | callback_id:int
6 qemu_domain_monitor_event event |
    callback_id:int domain:Domain event:str seconds:long micros:uint details:str?
7 qemu_domain_monitor_command_with_files domain:write fds-in |
    domain:Domain command:str flags:uint -> result:str
"""])
"""libvirt's QEMU program: the monitor and the guest agent, spoken to directly."""

MANOR = Program("manor", 0x20004D61, 1, _tables("manor"))
"""Our own program: what libvirt's has no procedure for. Servers without it answer that they do not know it.

The number is from the range that RFC 5531, section 8.3, leaves to users.
"""

KEEPALIVE_PROGRAM = 0x6B656570
"""The keepalive program, version 1: messages without payload or answer pairing (see `connection`)."""
