"""The client's side of the negotiation, without a socket: bytes in, bytes and an outcome out.

Source: "The NBD protocol" (proto.md), "Newstyle negotiation", "Option types", "Metadata querying".
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from manor.backends.block.nbd.incoming import Incoming, Parser, ParserOf, check_magic
from manor.backends.block.nbd.wire import (
    BASE_ALLOCATION,
    BLOCK_SIZES,
    CLIENT_FLAGS,
    EXPORT,
    GREETING,
    IHAVEOPT,
    MAX_OPTION,
    MAX_PAYLOAD,
    NBDMAGIC,
    OPTION,
    OPTION_REPLY,
    OPTION_REPLY_MAGIC,
    REPLY_IS_ERROR,
    SHORT,
    WORD,
    ZEROES_AFTER_EXPORT,
    Flag,
    HandshakeFlag,
    Info,
    Option,
    Reply,
)
from manor.base.errors import HostError, ProtocolError

MAX_REPLIES: Final = 10_000
"""Answers to one option: a server may offer many exports, not endlessly many."""

_HELP: Final[dict[int, str]] = {
    Reply.ERR_POLICY: "the server does not allow it to this client",
    Reply.ERR_TLS_REQD: "the server wants TLS; write nbds: or nbds+unix: in the address",
    Reply.ERR_UNKNOWN: "the server has no export of that name",
    Reply.ERR_SHUTDOWN: "the server is shutting down",
    Reply.ERR_BLOCK_SIZE_REQD: "the server wants block sizes to be asked for",
    Reply.ERR_TOO_BIG: "the name is too long for the server",
    Reply.ERR_UNSUP: "the server does not know this option",
}


class Refused(HostError):
    """The server said no. reply: its reason."""

    def __init__(self, attempt: str, reply: int, message: str) -> None:
        reason = _HELP.get(reply, f"the server answered {reply:#x}")
        super().__init__(f"{attempt}: {reason}{f' ({message})' if message else ''}")
        self.reply = reply


NO_FLAGS: Final = Flag(0)


@dataclass(slots=True)
class Export:
    """What was agreed on. Sizes in bytes."""

    name: str = ""
    size: int = 0
    flags: Flag = NO_FLAGS
    structured: bool = False
    allocation_context: int | None = None
    minimum_block: int = 1
    preferred_block: int = 4096
    maximum_payload: int = MAX_PAYLOAD
    description: str = ""


@dataclass(frozen=True, slots=True)
class Offer:
    """One export of a server's list."""

    name: str
    description: str


@dataclass(slots=True)
class Outcome:
    """How far the negotiation is. export: once it is agreed; offers: once they are listed."""

    export: Export | None = None
    offers: list[Offer] | None = None
    wants_tls: bool = False


@dataclass(slots=True)
class _Answer:
    """All replies to one option."""

    replies: list[tuple[int, bytes]] = field(default_factory=list)
    error: int = 0
    message: str = ""


class ClientHandshake:
    """Asks for export `name`, or for the list of exports.

    Whoever has the socket sends what `take_output` gives, hands in what comes, and looks at `outcome`. When that
    wants TLS, all further bytes are of the TLS session: start it, then call `tls_started`.
    """

    def __init__(self, name: str, *, tls: bool = False, list_only: bool = False) -> None:
        self._name = name
        self._tls = tls
        self._list_only = list_only
        self._output = bytearray()
        self.outcome = Outcome()
        self.incoming = Incoming(self._negotiate())

    def receive(self, data: bytes | memoryview) -> None:
        """The next bytes. Raises ProtocolError; Refused."""
        self.incoming.receive(data)

    def take_output(self) -> bytes:
        """What to send now."""
        data = bytes(self._output)
        self._output.clear()
        return data

    def tls_started(self) -> None:
        """Go on inside the TLS session."""
        if not self.incoming.is_between:
            raise ProtocolError("the server sent something between its answer to STARTTLS and the TLS session")
        self.outcome.wants_tls = False
        self.incoming = Incoming(self._choose())

    def _negotiate(self) -> Parser:
        magic, options, word = GREETING.unpack((yield GREETING.size))
        check_magic(magic, NBDMAGIC, "the server's greeting")
        check_magic(options, IHAVEOPT, "the server's negotiation")
        flags = HandshakeFlag(word)
        if HandshakeFlag.FIXED_NEWSTYLE not in flags:
            raise ProtocolError("the server speaks an NBD of before 2011, without the fixed newstyle negotiation")
        self._flags = flags & (HandshakeFlag.FIXED_NEWSTYLE | HandshakeFlag.NO_ZEROES)
        self._output += CLIENT_FLAGS.pack(self._flags)
        if not self._tls:
            yield from self._choose()
            return
        answer = yield from self._ask(Option.STARTTLS, b"")
        if answer.error:
            raise Refused("starting TLS", answer.error, answer.message)
        self.outcome.wants_tls = True

    def _choose(self) -> Parser:
        if self._list_only:
            yield from self._list()
            return
        export = Export(self._name)
        answer = yield from self._ask(Option.STRUCTURED_REPLY, b"")
        if answer.error == Reply.ERR_TLS_REQD:
            raise Refused("asking for the export", answer.error, answer.message)
        export.structured = not answer.error
        if export.structured:
            yield from self._ask_context(export)
        yield from self._go(export)
        self.outcome.export = export

    def _list(self) -> Parser:
        answer = yield from self._ask(Option.LIST, b"")
        if answer.error:
            raise Refused("listing the exports", answer.error, answer.message)
        offers = []
        for kind, data in answer.replies:
            if kind == Reply.SERVER:
                name, rest = _string(data)
                offers.append(Offer(name, rest.decode("utf-8", "replace")))
        self._output += OPTION.pack(IHAVEOPT, Option.ABORT, 0)
        self.outcome.offers = offers

    def _ask_context(self, export: Export) -> Parser:
        query = BASE_ALLOCATION.encode()
        data = _packed(self._name) + WORD.pack(1) + WORD.pack(len(query)) + query
        answer = yield from self._ask(Option.SET_META_CONTEXT, data)
        for kind, found in answer.replies:
            if kind == Reply.META_CONTEXT and len(found) > WORD.size and found[WORD.size :] == query:
                export.allocation_context = WORD.unpack_from(found)[0]

    def _go(self, export: Export) -> Parser:
        data = _packed(self._name) + SHORT.pack(2) + SHORT.pack(Info.BLOCK_SIZE) + SHORT.pack(Info.DESCRIPTION)
        answer = yield from self._ask(Option.GO, data)
        if answer.error == Reply.ERR_UNSUP:
            yield from self._export_name(export)
            return
        if answer.error:
            raise Refused(f"asking for export {self._name!r}", answer.error, answer.message)
        has_export = False
        for kind, found in answer.replies:
            if kind != Reply.INFO or len(found) < SHORT.size:
                continue
            (info,) = SHORT.unpack_from(found)
            body = found[SHORT.size :]
            if info == Info.EXPORT and len(body) == EXPORT.size:
                export.size, word = EXPORT.unpack(body)
                export.flags = Flag(word)
                has_export = True
            elif info == Info.BLOCK_SIZE and len(body) == BLOCK_SIZES.size:
                _set_block_sizes(export, *BLOCK_SIZES.unpack(body))
            elif info == Info.DESCRIPTION:
                export.description = body[:MAX_OPTION].decode("utf-8", "replace")
        if not has_export:
            raise ProtocolError("the server agreed to the export and did not say how large it is")

    def _export_name(self, export: Export) -> Parser:
        """The oldest way to ask. A server that does not have the export ends the connection."""
        name = self._name.encode()
        self._output += OPTION.pack(IHAVEOPT, Option.EXPORT_NAME, len(name)) + name
        size = EXPORT.size + (0 if HandshakeFlag.NO_ZEROES in self._flags else ZEROES_AFTER_EXPORT)
        data = yield size
        export.size, word = EXPORT.unpack_from(data)
        export.flags = Flag(word)

    def _ask(self, option: Option, data: bytes) -> ParserOf[_Answer]:
        self._output += OPTION.pack(IHAVEOPT, option, len(data)) + data
        answer = _Answer()
        for _ in range(MAX_REPLIES):
            magic, replied, kind, size = OPTION_REPLY.unpack((yield OPTION_REPLY.size))
            check_magic(magic, OPTION_REPLY_MAGIC, "an answer of the server")
            if replied != option or size > MAX_OPTION:
                raise ProtocolError(f"the server answered option {option} with {size} bytes about option {replied}")
            body = (yield size) if size else b""
            if kind & REPLY_IS_ERROR:
                answer.error = kind
                answer.message = body[:200].decode("utf-8", "replace")
                return answer
            if kind == Reply.ACK:
                return answer
            answer.replies.append((kind, body))
        raise ProtocolError(f"the server gave more than {MAX_REPLIES} answers to option {option}")


def _set_block_sizes(export: Export, minimum: int, preferred: int, maximum: int) -> None:
    # "Block size constraints": the minimum is a power of two of at most 64 KiB; the maximum is a multiple of it, and at
    # least a MiB or the whole export.
    if not 1 <= minimum <= 1 << 16 or minimum & (minimum - 1) or maximum < minimum:
        raise ProtocolError(f"block sizes of {minimum} to {maximum} bytes are not possible")
    export.minimum_block = minimum
    export.preferred_block = max(minimum, preferred)
    export.maximum_payload = min(maximum, MAX_PAYLOAD) & -minimum


def _packed(text: str) -> bytes:
    data = text.encode()
    return WORD.pack(len(data)) + data


def _string(data: bytes) -> tuple[str, bytes]:
    """A string after its length; what follows."""
    if len(data) < WORD.size or WORD.unpack_from(data)[0] > len(data) - WORD.size:
        raise ProtocolError("the server's list of exports is cut off")
    end = WORD.size + WORD.unpack_from(data)[0]
    return data[WORD.size : end].decode("utf-8", "replace"), data[end:]
