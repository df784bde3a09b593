"""The DNS: own names, forwarded questions, and hostile messages."""

from __future__ import annotations

import struct

import pytest

from manor.backends.net.user import dns
from manor.backends.net.user.plan import make_plan
from manor.base.clock import SECOND
from manor.testing.user_guest import (
    ACK,
    DNS,
    DNS6,
    FIN,
    GATEWAY,
    GATEWAY6,
    IP,
    NOTHING,
    PSH,
    RST,
    SYN,
    Conversation,
    Seen,
    TcpDialogue,
    echo_request,
    udp,
)

A, SOA, PTR, AAAA = 1, 6, 12, 28
NXDOMAIN, REFUSED, SERVFAIL, FORMERR, NOTIMP = 3, 5, 2, 1, 4


def name(text: str) -> bytes:
    return b"".join(bytes((len(label),)) + label.encode() for label in text.split(".") if label) + b"\0"


def query(text: str, kind: int = A, *, identifier: int = 0xBEEF, flags: int = 0x0100, edns: int = 0) -> bytes:
    head = struct.pack(">6H", identifier, flags, 1, 0, 0, 1 if edns else 0)
    tail = b"\0" + struct.pack(">HHIH", 41, edns, 0, 0) if edns else b""
    return head + name(text) + struct.pack(">HH", kind, 1) + tail


class Answer:
    """A DNS message, taken apart."""

    def __init__(self, message: bytes) -> None:
        self.identifier, self.flags, self.questions, answers, authorities, _ = struct.unpack_from(">6H", message)
        self.code = self.flags & 15
        self.is_truncated = bool(self.flags & 0x200)
        at = message.index(b"\0", 12) + 5 if self.questions else 12
        self.records: list[tuple[int, bytes]] = []
        self.authorities: list[tuple[int, bytes]] = []
        for index in range(answers + authorities):
            at = at + 2 if message[at] & 0xC0 else message.index(b"\0", at) + 1
            kind, _, ttl, size = struct.unpack_from(">HHIH", message, at)
            assert 0 < ttl <= 60
            (self.records if index < answers else self.authorities).append((kind, message[at + 10 : at + 10 + size]))
            at += 10 + size
        assert at == len(message)


def ask(conversation: Conversation, message: bytes, server: bytes = DNS) -> list[Seen]:
    return conversation.send(udp(server, 5353, 53, message))


def answer(conversation: Conversation, message: bytes, server: bytes = DNS) -> Answer:
    (seen,) = ask(conversation, message, server)
    assert (seen.source, seen.source_port, seen.port) == (server, 53, 5353)
    found = Answer(seen.payload)
    assert found.identifier == 0xBEEF
    assert found.flags & 0x8080 == 0x8080
    return found


def guest(hostname: str = "dev", **options: object) -> Conversation:
    conversation = Conversation(make_plan(hostname=hostname), NOTHING, **options)
    conversation.core.leases.offer(bytes.fromhex("525400123456"), 0)
    conversation.send(echo_request(GATEWAY6, 1, 1))
    return conversation


class TestOwnNames:
    @pytest.mark.parametrize("server", [DNS, GATEWAY, DNS6, GATEWAY6])
    def test_every_address_of_ours_answers(self, server: bytes) -> None:
        assert answer(guest(), query("gateway.manor"), server).records == [(A, GATEWAY)]

    def test_the_guest_the_host_and_the_others(self) -> None:
        conversation = guest(other_names=lambda name: [bytes((10, 9, 8, 7))] if name == "db" else None)
        assert answer(conversation, query("DEV.Manor")).records == [(A, IP)]
        assert answer(conversation, query("dev.manor", AAAA)).records == [
            (AAAA, bytes.fromhex("fd00000000000000505400fffe123456"))
        ]
        assert answer(conversation, query("host.manor", AAAA)).records == [(AAAA, GATEWAY6)]
        assert answer(conversation, query("dns.manor")).records == [(A, DNS)]
        assert answer(conversation, query("db.manor")).records == [(A, bytes((10, 9, 8, 7)))]

    def test_no_such_name_and_no_such_data(self) -> None:
        conversation = guest()
        nobody = answer(conversation, query("nobody.manor"))
        assert (nobody.code, nobody.records, [kind for kind, _ in nobody.authorities]) == (NXDOMAIN, [], [SOA])
        nothing = answer(conversation, query("dev.manor", 15))
        assert (nothing.code, nothing.records, [kind for kind, _ in nothing.authorities]) == (0, [], [SOA])
        assert answer(conversation, query("manor")).code == 0

    def test_the_host_shut_out_has_no_name(self) -> None:
        conversation = Conversation(make_plan(host_at_gateway=False))
        assert answer(conversation, query("host.manor")).code == NXDOMAIN
        assert answer(conversation, query("gateway.manor")).records == [(A, GATEWAY)]

    @pytest.mark.parametrize(
        ("address", "host"),
        [
            ("2.2.0.10.in-addr.arpa", "gateway"),
            ("3.2.0.10.in-addr.arpa", "dns"),
            ("15.2.0.10.in-addr.arpa", "dev"),
            (".".join("fd000000000000000000000000000002"[::-1]) + ".ip6.arpa", "gateway"),
            (".".join("fd00000000000000505400fffe123456"[::-1]) + ".ip6.arpa", "dev"),
        ],
    )
    def test_backwards(self, address: str, host: str) -> None:
        assert answer(guest(), query(address, PTR)).records == [(PTR, name(host + ".manor"))]

    def test_backwards_nobody(self) -> None:
        assert answer(guest(), query("99.2.0.10.in-addr.arpa", PTR)).code == NXDOMAIN

    def test_a_hostname_that_is_none_names_nobody(self) -> None:
        conversation = guest(hostname="")
        lease = conversation.core.leases.all()[0]
        for hostname in ("", "..", "a b", "-", "x" * 64, "ä"):
            lease.hostname = hostname
            assert answer(conversation, query("nobody.manor")).code == NXDOMAIN
            assert answer(conversation, query("15.2.0.10.in-addr.arpa", PTR)).code == NXDOMAIN
        lease.hostname = "Web.example.org"
        assert answer(conversation, query("web.manor")).records == [(A, IP)]


class TestForwarding:
    def forwarded(self, conversation: Conversation, message: bytes) -> tuple[int, bytes]:
        assert ask(conversation, message) == []
        ((kind, number, attempt, asked, over_tcp),) = conversation.outside.take()
        assert (kind, attempt, over_tcp) == ("resolver", 0, False)
        assert isinstance(number, int)
        assert isinstance(asked, bytes)
        assert asked == number.to_bytes(2, "big") + message[2:]
        return number, asked

    def reply(self, conversation: Conversation, number: int, message: bytes | None) -> list[Seen]:
        return conversation.world(lambda: conversation.core.dns.answered_by_resolver(number, message, conversation.now))

    def test_there_and_back(self) -> None:
        conversation = guest()
        number, asked = self.forwarded(conversation, query("example.org"))
        response = asked[:2] + b"\x81\x80" + asked[4:]
        (seen,) = self.reply(conversation, number, response)
        assert seen.payload == b"\xbe\xef" + response[2:]
        assert conversation.outside.take() == [("forget", number)]
        assert self.reply(conversation, number, response) == []  # a second answer is nobody's

    def test_what_is_no_answer(self) -> None:
        conversation = guest()
        number, asked = self.forwarded(conversation, query("example.org"))
        good = asked[:2] + b"\x81\x80" + asked[4:]
        wrong_question = query("evil.org", identifier=number, flags=0x8180)
        for bad in (b"", good[:5], asked, b"\0\0" + good[2:], wrong_question, good[:4] + bytes(8)):
            assert self.reply(conversation, number, bad) == []
        assert len(self.reply(conversation, number, good)) == 1

    def test_silent_resolvers(self) -> None:
        conversation = guest()
        number, _ = self.forwarded(conversation, query("example.org"))
        (seen,) = conversation.after(60 * SECOND)
        assert Answer(seen.payload).code == SERVFAIL
        asked = conversation.outside.take()
        assert [(one[0], one[2]) for one in asked[:-1]] == [("resolver", 1), ("resolver", 2), ("resolver", 3)]
        assert asked[-1] == ("forget", number)
        assert len(conversation.core.dns) == 0

    def test_a_resolver_that_is_not_there_lets_the_next_be_asked_at_once(self) -> None:
        conversation = guest()
        number, _ = self.forwarded(conversation, query("example.org"))
        assert self.reply(conversation, number, None) == []
        assert conversation.outside.take()[0][2] == 1
        conversation.outside.has_resolver = False
        assert answer(conversation, query("example.net")).code == SERVFAIL

    def test_too_large_for_the_guest(self) -> None:
        conversation = guest()
        for edns, is_cut in ((0, True), (4096, False)):
            number, asked = self.forwarded(conversation, query("example.org", edns=edns))
            end = 12 + len(name("example.org")) + 4
            large = asked[:2] + struct.pack(">5H", 0x8180, 1, 0, 0, 0) + asked[12:end] + bytes(600)
            (seen,) = self.reply(conversation, number, large)
            conversation.outside.take()
            assert bool(seen.payload[2] & 2) is is_cut
            assert len(seen.payload) == (end if is_cut else len(large))

    @pytest.mark.parametrize("reach", ["host", "none"])
    def test_nothing_leaves_a_closed_network(self, reach: str) -> None:
        conversation = Conversation(make_plan(reach=reach))  # type: ignore[arg-type]
        assert answer(conversation, query("example.org")).code == REFUSED
        assert answer(conversation, query("gateway.manor")).code == 0
        assert conversation.outside.take() == []

    def test_too_many_at_once(self) -> None:
        conversation = guest()
        for _ in range(dns.MAX_QUERIES):
            assert ask(conversation, query("example.org")) == []
        assert answer(conversation, query("example.org")).code == REFUSED

    def test_private_reverse_names_of_others_go_out(self) -> None:
        self.forwarded(guest(), query("4.3.2.1.in-addr.arpa", PTR))


class TestMessages:
    def test_what_gets_an_error(self) -> None:
        conversation = guest()
        two = struct.pack(">6H", 0xBEEF, 0, 2, 0, 0, 0) + (name("a.org") + b"\0\1\0\1") * 2
        loop = struct.pack(">6H", 0xBEEF, 0, 1, 0, 0, 0) + b"\xc0\x0c\0\1\0\1"
        long_label = struct.pack(">6H", 0xBEEF, 0, 1, 0, 0, 0) + b"\x3fabc"
        for message in (two, loop, long_label, query("a.org")[:-3], struct.pack(">6H", 0xBEEF, 0, 0, 0, 0, 0)):
            (seen,) = ask(conversation, message)
            assert seen.payload[:2] == b"\xbe\xef"
            assert seen.payload[3] & 15 == FORMERR
        assert answer(conversation, query("a.org", flags=0x2000)).code == NOTIMP

    def test_what_gets_nothing(self) -> None:
        for message in (b"", b"\xbe\xef", query("a.org", flags=0x8000)):
            assert ask(guest(), message) == []


class TestOverTcp:
    def open(self) -> TcpDialogue:
        talk = TcpDialogue(guest(), DNS, 53)
        (syn,) = talk.send(SYN)
        talk.ack = syn.sequence + 1
        assert talk.send(ACK) == []
        return talk

    def test_questions_one_after_the_other(self) -> None:
        talk = self.open()
        message = query("gateway.manor")
        packed = len(message).to_bytes(2, "big") + message
        assert [one.payload for one in talk.send(ACK | PSH, packed[:1])] == [b""]
        seen = talk.send(ACK | PSH, packed[1:] + packed)
        stream = b"".join(one.payload for one in seen)
        size = int.from_bytes(stream[:2], "big")
        assert Answer(stream[2 : 2 + size]).records == [(A, GATEWAY)]
        assert stream[: 2 + size] * 2 == stream
        talk.ack += len(stream)
        assert talk.send(ACK | FIN)[-1].flags & FIN

    def test_forwarded_over_tcp(self) -> None:
        talk = self.open()
        conversation = talk.conversation
        message = query("example.org")
        packed = len(message).to_bytes(2, "big") + message
        talk.send(ACK | PSH, packed * 2 + packed[:5])
        ((_, number, _, asked, over_tcp),) = conversation.outside.take()  # the second waits for the first
        assert over_tcp
        assert isinstance(number, int)
        assert isinstance(asked, bytes)
        large = asked[:2] + b"\x81\x80" + asked[4:] + bytes(5000)
        seen = conversation.world(lambda: conversation.core.dns.answered_by_resolver(number, large, conversation.now))
        assert b"".join(one.payload for one in seen) == len(large).to_bytes(2, "big") + b"\xbe\xef" + large[2:]
        assert [one[0] for one in conversation.outside.take()] == ["forget", "resolver"]

    def test_a_thousand_questions_in_one_segment(self) -> None:
        talk = self.open()
        message = query("dev.manor")
        packed = len(message).to_bytes(2, "big") + message
        seen = talk.send(ACK | PSH, packed * 1000)
        for _ in range(100):
            talk.ack += sum(len(one.payload) for one in seen)
            if not (seen := talk.send(ACK)):
                break
        answered = talk.conversation.core.dns.answered
        assert answered == 1000

    def test_rubbish_ends_the_connection(self) -> None:
        talk = self.open()
        assert talk.send(ACK | PSH, b"\x00\x03abc")[0].flags & RST
