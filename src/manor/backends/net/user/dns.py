"""The network's DNS: names of virtual machines are answered here, everything else by the host's resolvers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from manor.backends.net.user import dns_message
from manor.backends.net.user.outside import Outside
from manor.backends.net.user.plan import DOMAIN, Plan
from manor.backends.net.user.tcp import TcpEndpoint
from manor.backends.net.user.tcp_state import End
from manor.base.clock import SECOND

PORT: Final = 53
MAX_QUERIES: Final = 256
"""Outstanding at a time; more are refused at once."""
TRY: Final = 2 * SECOND
"""Until the next of the host's resolvers is asked; clients ask again after five seconds (resolv.conf(5))."""
TRIES: Final = 4
MAX_BUFFERED: Final = 64 << 10
"""Of one TCP client, queries not read yet: one of the largest size."""

Reply = Callable[[bytes], None]


class Names(Protocol):
    """Who answers for names in our domain and for our addresses."""

    def addresses_of(self, name: str) -> Sequence[bytes] | None:
        """Addresses of `name` (lower case, without the domain); None if there is no such name."""

    def name_of(self, address: bytes) -> str | None:
        """The name of an address, without the domain."""


@dataclass(slots=True)
class _Pending:
    query: dns_message.Query
    message: bytes
    reply: Reply
    over_tcp: bool
    deadline: int
    attempt: int = 0


class DnsForwarder:
    """now is passed in; answers come through the reply that came with the query."""

    def __init__(self, plan: Plan, names: Names, outside: Outside, random16: Callable[[], int]) -> None:
        self._plan = plan
        self._names = names
        self._outside = outside
        self._random16 = random16
        self._pending: dict[int, _Pending] = {}
        self.answered = 0
        self.forwarded = 0
        self.failed = 0

    def __len__(self) -> int:
        return len(self._pending)

    def ask(self, message: bytes, reply: Reply, now: int, *, over_tcp: bool) -> None:
        """Answer a guest's query, now or later, or never if it is not worth an answer."""
        query = dns_message.parse_query(message)
        if query is None:
            complaint = dns_message.format_error(message)
            if complaint is not None:
                reply(complaint)
            return
        if not dns_message.is_opcode_query(query):
            reply(dns_message.failure(query, dns_message.NOTIMP))
            return
        own = self._own_answer(query)
        if own is not None:
            self.answered += 1
            reply(own)
        elif self._plan.reach != "all" or len(self._pending) >= MAX_QUERIES:
            self.failed += 1
            reply(dns_message.failure(query, dns_message.REFUSED))
        else:
            self._forward(query, message, reply, now, over_tcp=over_tcp)

    def _own_answer(self, query: dns_message.Query) -> bytes | None:
        if query.kind_class not in (dns_message.IN, dns_message.ANY):
            return None
        name = query.name
        if name == DOMAIN:
            return dns_message.addresses(query, [])
        if name.endswith("." + DOMAIN):
            found = self._names.addresses_of(name[: -len(DOMAIN) - 1])
            return dns_message.no_such_name(query) if found is None else dns_message.addresses(query, list(found))
        if name.endswith(".arpa"):
            address = dns_message.reverse_address(name)
            if address is not None and self._plan.is_local(address):
                host = self._names.name_of(address)
                return (
                    dns_message.no_such_name(query) if host is None else dns_message.pointer(query, f"{host}.{DOMAIN}")
                )
        return None

    def _forward(self, query: dns_message.Query, message: bytes, reply: Reply, now: int, *, over_tcp: bool) -> None:
        number = self._random16()
        while number in self._pending:
            number = (number + 1) & 0xFFFF
        pending = _Pending(query, number.to_bytes(2, "big") + message[2:], reply, over_tcp, now + TRY)
        self._pending[number] = pending
        self.forwarded += 1
        self._try(number, pending, now)

    def _try(self, number: int, pending: _Pending, now: int) -> None:
        while pending.attempt < TRIES:
            attempt = pending.attempt
            pending.attempt += 1
            pending.deadline = now + TRY
            if self._outside.ask_resolver(number, attempt, pending.message, over_tcp=pending.over_tcp):
                return
        self._give_up(number, pending)

    def _give_up(self, number: int, pending: _Pending) -> None:
        self._pending.pop(number, None)
        self._outside.forget_query(number)
        self.failed += 1
        pending.reply(dns_message.failure(pending.query, dns_message.SERVFAIL))

    def answered_by_resolver(self, number: int, message: bytes | None, now: int) -> None:
        """An answer came from outside; None: the resolver could not be asked after all."""
        pending = self._pending.get(number)
        if pending is None:
            return
        if message is None:
            self._try(number, pending, now)
            return
        if not dns_message.is_answer_to(message, pending.message):
            return  # somebody guesses, or a late answer to another question
        del self._pending[number]
        self._outside.forget_query(number)
        message = pending.query.identifier.to_bytes(2, "big") + message[2:]
        pending.reply(message if pending.over_tcp else dns_message.truncate(message, pending.query))

    def expire(self, now: int) -> None:
        for number, pending in list(self._pending.items()):
            if pending.deadline <= now:
                self._try(number, pending, now)

    @property
    def deadline(self) -> int | None:
        if not self._pending:
            return None
        return min(pending.deadline for pending in self._pending.values())

    def clear(self) -> None:
        for number in list(self._pending):
            del self._pending[number]
            self._outside.forget_query(number)


class DnsSession:
    """A guest that asks over TCP (RFC 7766): two bytes of length before each message."""

    def __init__(self, endpoint: TcpEndpoint, ask: Callable[[bytes, Reply], None]) -> None:
        self._endpoint = endpoint
        self._ask = ask
        self._buffer = bytearray()
        self._unanswered = 0
        self._is_closing = False
        self._is_open = True
        self._is_reading = False

    def tcp_opened(self) -> None:
        """Nothing to do: the guest speaks first."""

    def tcp_receive(self, chunks: Sequence[memoryview]) -> int:
        # What would be answered into a full window waits in the guest; one at a time is enough for any client.
        taken = 0
        for chunk in chunks:
            if len(self._buffer) + len(chunk) > MAX_BUFFERED + 2:
                break
            self._buffer += chunk
            taken += len(chunk)
        self._read()
        return taken

    def _read(self) -> None:
        """Answer what was read, one question after the other, as long as the guest takes the answers."""
        if self._is_reading:
            return
        self._is_reading = True
        buffer = self._buffer
        while self._is_open and not self._unanswered and not self._endpoint.has_unsent and len(buffer) >= 2:
            end = 2 + int.from_bytes(buffer[:2], "big")
            if len(buffer) < end:
                break
            message = bytes(buffer[2:end])
            del buffer[:end]
            if dns_message.parse_query(message) is None and dns_message.format_error(message) is None:
                self._is_open = False
                self._endpoint.abort()
                break
            self._unanswered += 1
            self._ask(message, self._answer)
        self._is_reading = False

    def _answer(self, message: bytes) -> None:
        if not self._is_open:
            return
        self._unanswered -= 1
        self._endpoint.write(len(message).to_bytes(2, "big") + message)
        if not self._is_reading:
            self._go_on()

    def _go_on(self) -> None:
        self._read()
        self._endpoint.resume()
        self._close_if_done()

    def _close_if_done(self) -> None:
        if self._is_closing and self._is_open and not self._unanswered and len(self._buffer) < 2:
            self._endpoint.finish()

    def tcp_end(self) -> None:
        self._is_closing = True
        self._close_if_done()

    def tcp_room(self) -> None:
        self._go_on()

    def tcp_closed(self, end: End) -> None:
        self._is_open = False
        self._buffer.clear()
