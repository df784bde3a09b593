"""The server's side of one connection, without a socket: bytes in, requests and bytes out.

Source: "The NBD protocol" (proto.md), "Newstyle negotiation", "Transmission", "Block size constraints".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from manor.backends.block.nbd.incoming import Incoming, Parser, check_magic
from manor.backends.block.nbd.wire import (
    BASE_ALLOCATION,
    BLOCK_SIZES,
    CHUNK_DONE,
    CLIENT_FLAGS,
    ERROR,
    EXPORT,
    GREETING,
    HOLE,
    IHAVEOPT,
    MAX_OPTION,
    MAX_PAYLOAD,
    MAX_STRING,
    NBDMAGIC,
    OFFSET,
    OPTION,
    OPTION_REPLY,
    OPTION_REPLY_MAGIC,
    REQUEST,
    REQUEST_MAGIC,
    SHORT,
    SIMPLE_REPLY,
    SIMPLE_REPLY_MAGIC,
    STATUS,
    STRUCTURED_REPLY,
    STRUCTURED_REPLY_MAGIC,
    WORD,
    ZEROES_AFTER_EXPORT,
    Chunk,
    Command,
    CommandFlag,
    Error,
    Flag,
    HandshakeFlag,
    Info,
    Option,
    Reply,
)
from manor.base.errors import ProtocolError

MAX_OPTIONS: Final = 1000
"""A client that has asked so often wants something else than a disk."""
PREFERRED_BLOCK: Final = 4096
_CONTEXT_ID: Final = 1

_FLAGS_OF: Final = {
    Command.READ: CommandFlag.DF,
    Command.WRITE: CommandFlag.FUA,
    Command.FLUSH: CommandFlag(0),
    Command.TRIM: CommandFlag.FUA,
    Command.WRITE_ZEROES: CommandFlag.FUA | CommandFlag.NO_HOLE,
    Command.BLOCK_STATUS: CommandFlag.REQ_ONE,
}
"""What each command may carry. FUA is allowed with all of them by the text, and means nothing with a read."""


@dataclass(frozen=True, slots=True)
class Offered:
    """An export as its clients see it. size: bytes."""

    size: int
    read_only: bool = False
    description: str = ""

    @property
    def flags(self) -> Flag:
        flags = Flag.HAS_FLAGS | Flag.SEND_FLUSH | Flag.SEND_FUA | Flag.CAN_MULTI_CONN | Flag.SEND_DF
        if self.read_only:
            return flags | Flag.READ_ONLY
        return flags | Flag.SEND_TRIM | Flag.SEND_WRITE_ZEROES


@dataclass(slots=True)
class Request:
    """One request of a client, checked. payload: of a write. error: what it is answered with at once, else 0."""

    command: Command
    flags: CommandFlag
    cookie: int
    offset: int
    size: int
    payload: memoryview | None = None
    error: int = 0
    message: str = ""


class ServerSession:
    """One client. Whoever has its socket sends what `take_output` gives and does the `requests`.

    exports: name -> what is offered; the first is also the one with the empty name. tls: "off"; "required" offers
    nothing outside. When `wants_tls`, all further bytes are of the TLS session: start it, then call `tls_started`.
    """

    def __init__(self, exports: Mapping[str, Offered], *, requires_tls: bool = False) -> None:
        self._exports = exports
        self._requires_tls = requires_tls
        self._is_secure = False
        self._output = bytearray()
        self._flags = HandshakeFlag(0)
        self._structured = False
        self._context_export: str | None = None
        self.wants_tls = False
        self.export: str | None = None
        """The export's name, once the client has chosen."""
        self.requests: list[Request] = []
        """Those that nobody has taken out of this list yet."""
        self.is_over = False
        """The client wants no more."""
        self._output += GREETING.pack(NBDMAGIC, IHAVEOPT, HandshakeFlag.FIXED_NEWSTYLE | HandshakeFlag.NO_ZEROES)
        self.incoming = Incoming(self._talk())

    def receive(self, data: bytes | memoryview) -> None:
        """The next bytes of the client. Raises ProtocolError: end the connection."""
        self.incoming.receive(data)

    def take_output(self) -> bytes:
        """What to send now."""
        data = bytes(self._output)
        self._output.clear()
        return data

    def tls_started(self) -> None:
        """Go on inside the TLS session. What the client said outside counts no more."""
        if not self.incoming.is_between:
            raise ProtocolError("the client sent something between STARTTLS and the TLS session")
        self.wants_tls = False
        self._is_secure = True
        self._structured = False
        self._context_export = None
        self.incoming = Incoming(self._options())

    # ------------------------------------------------------------------ negotiation
    def _talk(self) -> Parser:
        (flags,) = CLIENT_FLAGS.unpack((yield CLIENT_FLAGS.size))
        # int: the complement of an IntFlag has no bits that are not declared.
        if flags & ~int(HandshakeFlag.FIXED_NEWSTYLE | HandshakeFlag.NO_ZEROES):
            raise ProtocolError(f"the client answered with flags {flags:#x}")
        self._flags = HandshakeFlag(flags)
        yield from self._options()

    def _options(self) -> Parser:
        for _ in range(MAX_OPTIONS):
            magic, option, size = OPTION.unpack((yield OPTION.size))
            check_magic(magic, IHAVEOPT, "an option of the client")
            if size > MAX_OPTION:
                raise ProtocolError(f"the client sent {size} bytes with option {option}")
            data = (yield size) if size else b""
            if self._requires_tls and not self._is_secure and option not in (Option.STARTTLS, Option.ABORT):
                if option == Option.EXPORT_NAME:
                    raise ProtocolError("the client asked for an export without the TLS that is wanted here")
                self._reply(option, Reply.ERR_TLS_REQD, b"this server wants TLS")
                continue
            if option == Option.ABORT:
                self._reply(option, Reply.ACK)
                self.is_over = True
                return
            if option == Option.STARTTLS:
                if self._start_tls(data):
                    return
                continue
            if self._answer(option, data):
                yield from self._requests()
                return
        raise ProtocolError(f"the client asked {MAX_OPTIONS} times and chose no export")

    def _start_tls(self, data: bytes) -> bool:
        if not self._requires_tls:
            self._reply(Option.STARTTLS, Reply.ERR_POLICY, b"no TLS is set up here")
        elif self._is_secure or data:
            self._reply(Option.STARTTLS, Reply.ERR_INVALID)
        else:
            self._reply(Option.STARTTLS, Reply.ACK)
            self.wants_tls = True
        return self.wants_tls

    def _answer(self, option: int, data: bytes) -> bool:
        """Answer one option; whether the client has its export now."""
        match option:
            case Option.EXPORT_NAME:
                name = self._find(data)
                if name is None:
                    raise ProtocolError("the client asked for an export that is not here")
                offered = self._exports[name]
                self._output += EXPORT.pack(offered.size, offered.flags)
                if HandshakeFlag.NO_ZEROES not in self._flags:
                    self._output += bytes(ZEROES_AFTER_EXPORT)
                self._choose(name)
                return True
            case Option.LIST:
                self._list(data)
            case Option.INFO | Option.GO:
                return self._go(option, data)
            case Option.STRUCTURED_REPLY:
                self._structured = self._structured or not data
                self._reply(option, Reply.ERR_INVALID if data else Reply.ACK)
            case Option.LIST_META_CONTEXT | Option.SET_META_CONTEXT:
                self._meta_context(option, data)
            case _:
                self._reply(option, Reply.ERR_UNSUP)
        return False

    def _list(self, data: bytes) -> None:
        if data:
            self._reply(Option.LIST, Reply.ERR_INVALID)
            return
        for name, offered in self._exports.items():
            text = name.encode()
            self._reply(Option.LIST, Reply.SERVER, WORD.pack(len(text)) + text + offered.description.encode())
        self._reply(Option.LIST, Reply.ACK)

    def _go(self, option: int, data: bytes) -> bool:
        asked = _parse_go(data)
        if asked is None:
            self._reply(option, Reply.ERR_INVALID)
            return False
        text, infos = asked
        name = self._find(text)
        if name is None:
            self._reply(option, Reply.ERR_UNKNOWN, b"there is no such export")
            return False
        offered = self._exports[name]
        self._reply(option, Reply.INFO, SHORT.pack(Info.EXPORT) + EXPORT.pack(offered.size, offered.flags))
        sizes = BLOCK_SIZES.pack(1, PREFERRED_BLOCK, MAX_PAYLOAD)
        self._reply(option, Reply.INFO, SHORT.pack(Info.BLOCK_SIZE) + sizes)
        if Info.NAME in infos:
            self._reply(option, Reply.INFO, SHORT.pack(Info.NAME) + name.encode())
        if Info.DESCRIPTION in infos and offered.description:
            self._reply(option, Reply.INFO, SHORT.pack(Info.DESCRIPTION) + offered.description.encode())
        self._reply(option, Reply.ACK)
        if option != Option.GO:
            return False
        self._choose(name)
        return True

    def _meta_context(self, option: int, data: bytes) -> None:
        asked = _parse_queries(data)
        if option == Option.SET_META_CONTEXT:
            self._context_export = None
        if asked is None or not self._structured:
            self._reply(option, Reply.ERR_INVALID)
            return
        text, queries = asked
        name = self._find(text)
        if name is None:
            self._reply(option, Reply.ERR_UNKNOWN, b"there is no such export")
            return
        everything = option == Option.LIST_META_CONTEXT and (not queries or b"base:" in queries)
        if everything or BASE_ALLOCATION.encode() in queries:
            # "Metadata querying": the number means nothing in a list.
            number = _CONTEXT_ID if option == Option.SET_META_CONTEXT else 0
            self._reply(option, Reply.META_CONTEXT, WORD.pack(number) + BASE_ALLOCATION.encode())
            if option == Option.SET_META_CONTEXT:
                self._context_export = name
        self._reply(option, Reply.ACK)

    def _find(self, text: bytes) -> str | None:
        if not text and self._exports:
            return next(iter(self._exports))
        try:
            name = text.decode()
        except UnicodeDecodeError:
            return None
        return name if name in self._exports else None

    def _choose(self, name: str) -> None:
        if self._context_export != name:
            self._context_export = None
        self.export = name

    def _reply(self, option: int, kind: int, data: bytes = b"") -> None:
        self._output += OPTION_REPLY.pack(OPTION_REPLY_MAGIC, option, kind, len(data)) + data

    # ------------------------------------------------------------------ transmission
    def _requests(self) -> Parser:
        assert self.export is not None
        offered = self._exports[self.export]
        while True:
            magic, flags, command, cookie, offset, size = REQUEST.unpack((yield REQUEST.size))
            check_magic(magic, REQUEST_MAGIC, "a request of the client")
            if command == Command.DISC:
                self.is_over = True
                return
            payload = None
            if command == Command.WRITE:
                if size > MAX_PAYLOAD:
                    raise ProtocolError(f"the client wants to write {size} bytes at once; {MAX_PAYLOAD} are allowed")
                payload = memoryview(bytearray(size))
                yield [payload]
            if command not in _FLAGS_OF:
                request = Request(Command.READ, CommandFlag(0), cookie, 0, 0)
                request.error, request.message = Error.EINVAL, f"command {command} is not known"
            else:
                request = Request(Command(command), CommandFlag(flags), cookie, offset, size, payload)
                request.error, request.message = self._judge(request, offered)
            self.requests.append(request)

    def _judge(self, request: Request, offered: Offered) -> tuple[int, str]:
        """The error that the request has without being done; 0 if none."""
        command = request.command
        changes = command in (Command.WRITE, Command.TRIM, Command.WRITE_ZEROES)
        if int(request.flags) & ~int(_FLAGS_OF[command] | CommandFlag.FUA):
            return Error.EINVAL, f"flags {request.flags:#x} are not known with {command.name}"
        if changes and offered.read_only:
            return Error.EPERM, "the export is read-only"
        if command is Command.FLUSH:
            return (Error.EINVAL, "a flush has no range") if request.offset or request.size else (0, "")
        if request.offset + request.size > offered.size:
            beyond = Error.ENOSPC if command in (Command.WRITE, Command.WRITE_ZEROES) else Error.EINVAL
            return beyond, f"the disk ends at {offered.size}"
        if command is Command.READ and request.size > MAX_PAYLOAD:
            return Error.EOVERFLOW, f"one read may have {MAX_PAYLOAD} bytes"
        if command is Command.BLOCK_STATUS and (self._context_export is None or not request.size):
            return Error.EINVAL, "no context was agreed on, or the range is empty"
        return 0, ""

    def failed(self, request: Request, error: int, message: str = "") -> list[memoryview]:
        """What to send for a request that failed."""
        if not self._structured:
            return [memoryview(SIMPLE_REPLY.pack(SIMPLE_REPLY_MAGIC, error, request.cookie))]
        text = message.encode()[:MAX_STRING]
        body = ERROR.pack(error, len(text)) + text
        return [memoryview(_chunk(request, Chunk.ERROR, len(body), done=True) + body)]

    def done(self, request: Request) -> list[memoryview]:
        """What to send for a request without data that succeeded."""
        if not self._structured:
            return [memoryview(SIMPLE_REPLY.pack(SIMPLE_REPLY_MAGIC, 0, request.cookie))]
        return [memoryview(_chunk(request, Chunk.NONE, 0, done=True))]

    def data(self, request: Request, data: memoryview) -> list[memoryview]:
        """What to send for a read: all of it."""
        if not self._structured:
            return [memoryview(SIMPLE_REPLY.pack(SIMPLE_REPLY_MAGIC, 0, request.cookie)), data]
        if not request.size:
            return self.done(request)
        head = _chunk(request, Chunk.OFFSET_DATA, OFFSET.size + data.nbytes, done=True) + OFFSET.pack(request.offset)
        return [memoryview(head), data]

    def takes_holes(self, request: Request) -> bool:
        """Whether the client of a read can be told of zeros instead of being sent them."""
        return self._structured and CommandFlag.DF not in request.flags

    def hole(self, request: Request) -> list[memoryview]:
        """What to send for a read of nothing but zeros."""
        body = HOLE.pack(request.offset, request.size)
        return [memoryview(_chunk(request, Chunk.OFFSET_HOLE, len(body), done=True) + body)]

    def status(self, request: Request, ranges: Iterable[tuple[int, int]]) -> list[memoryview]:
        """What to send for a block status: (size, state flags) of ranges one after the other."""
        body = WORD.pack(_CONTEXT_ID) + b"".join(STATUS.pack(size, flags) for size, flags in ranges)
        return [memoryview(_chunk(request, Chunk.BLOCK_STATUS, len(body), done=True) + body)]


def _chunk(request: Request, kind: Chunk, size: int, *, done: bool) -> bytes:
    return STRUCTURED_REPLY.pack(STRUCTURED_REPLY_MAGIC, CHUNK_DONE if done else 0, kind, request.cookie, size)


def _parse_go(data: bytes) -> tuple[bytes, list[int]] | None:
    """Name and information requests; None if malformed."""
    named = _take_string(data)
    if named is None or len(named[1]) < SHORT.size:
        return None
    name, rest = named
    (count,) = SHORT.unpack_from(rest)
    if len(rest) != SHORT.size * (1 + count):
        return None
    return name, [kind for (kind,) in SHORT.iter_unpack(rest[SHORT.size :])]


def _parse_queries(data: bytes) -> tuple[bytes, list[bytes]] | None:
    """Name and queries; None if malformed."""
    named = _take_string(data)
    if named is None or len(named[1]) < WORD.size:
        return None
    name, rest = named
    (count,) = WORD.unpack_from(rest)
    rest = rest[WORD.size :]
    queries = []
    for _ in range(count):
        found = _take_string(rest)
        if found is None:
            return None
        query, rest = found
        queries.append(query)
    return None if rest else (name, queries)


def _take_string(data: bytes) -> tuple[bytes, bytes] | None:
    """The string at the front, after its length; and the rest."""
    if len(data) < WORD.size:
        return None
    (size,) = WORD.unpack_from(data)
    if size > MAX_STRING or WORD.size + size > len(data):
        return None
    return data[WORD.size : WORD.size + size], data[WORD.size + size :]
