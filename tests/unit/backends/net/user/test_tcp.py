"""TCP with the guest, segment by segment. Section numbers are those of RFC 9293 unless another document is named."""

from __future__ import annotations

import struct
from collections.abc import Callable
from itertools import pairwise

import pytest

from manor.backends.net.api import Frame, Segmentation
from manor.backends.net.user import tcp, tcp_receive, tcp_send, tcp_table
from manor.backends.net.user.icmp import Reason
from manor.backends.net.user.plan import GATEWAY_MAC, make_plan
from manor.backends.net.user.tcp_state import End, State
from manor.base.clock import MILLISECOND, SECOND
from manor.testing import user_guest
from manor.testing.user_guest import (
    ACK,
    EVERYTHING,
    FIN,
    GATEWAY,
    IP,
    MAC,
    PSH,
    RST,
    SYN,
    WORLD,
    WORLD6,
    Conversation,
    FakeApplication,
    Seen,
    TcpDialogue,
)

MSS = bytes((2, 4, 5, 180))  # 1460
SCALE = bytes((1, 3, 3, 7))
SACK_PERMITTED = bytes((1, 1, 4, 2))


@pytest.fixture(params=[WORLD, WORLD6], ids=["v4", "v6"])
def destination(request: pytest.FixtureRequest) -> bytes:
    return bytes(request.param)


def dialogue(destination: bytes = WORLD, options: bytes = MSS, **arguments: object) -> TcpDialogue:
    """A connection that is open."""
    talk = TcpDialogue(Conversation(), destination, **arguments)  # type: ignore[arg-type]
    talk.open(options)
    return talk


def write(talk: TcpDialogue, data: bytes) -> list[Seen]:
    return talk.world(lambda: talk.endpoint.write(data))


def payloads(seen: list[Seen]) -> bytes:
    return b"".join(one.payload for one in seen)


class TestOpening:
    def test_handshake(self, destination: bytes) -> None:
        talk = TcpDialogue(Conversation(), destination)
        answer = talk.open()
        assert (answer.source, answer.source_port, answer.port) == (destination, 80, 40000)
        assert answer.options == struct.pack(">BBH", 2, 4, 1460 if len(destination) == 4 else 1440)
        assert talk.endpoint.state is State.ESTABLISHED
        assert talk.conversation.outside.take() == [("tcp", destination, 80, talk.endpoint)]

    def test_options_are_answered_when_offered(self) -> None:
        answer = TcpDialogue(Conversation()).open(MSS + SACK_PERMITTED + SCALE)
        assert answer.options == MSS + SACK_PERMITTED + bytes((1, 3, 3, tcp_receive.SCALE))

    def test_nothing_is_said_before_the_world_answered(self) -> None:
        conversation = Conversation()
        talk = TcpDialogue(conversation)
        assert talk.send(SYN, is_counted=False) == []
        assert conversation.after(3 * SECOND) == []
        assert talk.send(SYN, is_counted=False) == []  # the guest asks again
        ((_, _, _, endpoint),) = conversation.outside.take()
        assert isinstance(endpoint, tcp.TcpEndpoint)
        (answer,) = conversation.world(endpoint.accept)
        assert answer.flags == SYN | ACK

    def test_refused(self, destination: bytes) -> None:
        conversation = Conversation()
        conversation.outside.answer = lambda: Reason.PORT
        (reset,) = TcpDialogue(conversation, destination).send(SYN)
        assert (reset.flags, reset.sequence, reset.ack) == (RST | ACK, 0, 0xFFFF_FF01)
        assert len(conversation.core.tcp) == 0

    @pytest.mark.parametrize(("reason", "code"), [(Reason.HOST, (3, 1)), (Reason.NO_ROUTE, (3, 0))])
    def test_unreachable(self, reason: Reason, code: tuple[int, int]) -> None:
        conversation = Conversation()
        conversation.outside.answer = lambda: reason
        error, reset = TcpDialogue(conversation).send(SYN)
        assert (error.protocol, tuple(error.body[:2])) == (1, code)
        quoted = error.body[8:]
        assert quoted[12:20] == IP + WORLD
        assert quoted[20:28] == struct.pack(">HHI", 40000, 80, 0xFFFF_FF00)
        assert reset.flags == RST | ACK

    def test_the_guest_gives_up_before_the_world_answers(self) -> None:
        conversation = Conversation()
        application = FakeApplication()
        talk = TcpDialogue(conversation)
        talk.send(SYN)
        endpoint = next(iter(conversation.core.tcp.endpoints()))
        endpoint.application = application
        assert talk.send(RST) == []
        assert application.end is End.RESET
        assert conversation.world(endpoint.accept) == []

    def test_a_lost_answer_is_repeated(self) -> None:
        conversation = Conversation()
        talk = TcpDialogue(conversation)
        conversation.outside.answer = lambda: talk.application
        (first,) = talk.send(SYN, is_counted=False)
        (second,) = talk.send(SYN, is_counted=False)
        assert (first.flags, first.sequence) == (second.flags, second.sequence)
        repeated = conversation.after(60 * SECOND)
        assert [seen.flags for seen in repeated] == [SYN | ACK] * (tcp.MAX_SYNS - 1) + [RST | ACK]
        assert talk.application.end is End.TIMED_OUT

    def test_the_first_window_of_the_guest_is_kept(self) -> None:
        talk = TcpDialogue(Conversation())
        talk.window = 1000
        talk.open()
        assert talk.endpoint.room == 1000

    def test_more_than_a_host_can_bear(self) -> None:
        conversation = Conversation()
        conversation.outside.answer = FakeApplication
        for number in range(tcp_table.MAX_CONNECTIONS):
            assert len(TcpDialogue(conversation, source_port=1024 + number).send(SYN)) == 1
        (reset,) = TcpDialogue(conversation, source_port=60000).send(SYN)
        assert reset.flags == RST | ACK
        assert len(conversation.core.tcp) == tcp_table.MAX_CONNECTIONS

    def test_at_the_limit_the_longest_silent_connection_goes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(tcp_table, "MAX_CONNECTIONS", 2)
        conversation = Conversation()
        talks = [TcpDialogue(conversation, source_port=port) for port in (5001, 5002, 5003)]
        talks[0].open()
        talks[1].open()
        conversation.after(30 * SECOND)
        talks[0].send(ACK | PSH, b"alive")
        conversation.after(40 * SECOND)
        conversation.outside.answer = lambda: talks[2].application
        reset, answer = talks[2].send(SYN)
        assert (reset.port, reset.flags) == (5002, RST | ACK)
        assert answer.flags == SYN | ACK
        assert talks[1].application.end is End.EVICTED
        assert talks[0].application.end is None

    def test_segments_of_no_connection_are_reset(self) -> None:
        conversation = Conversation()
        talk = TcpDialogue(conversation)
        talk.ack = 77
        (reset,) = talk.send(ACK, b"late")
        assert (reset.flags, reset.sequence) == (RST, 77)
        (reset,) = talk.send(FIN, at=1000)
        assert (reset.flags, reset.ack) == (RST | ACK, 1001)
        assert talk.send(RST) == []

    def test_a_small_segment_size_of_the_guest(self) -> None:
        talk = dialogue(options=bytes((2, 4, 0, 1)))
        sizes = [len(seen.payload) for seen in write(talk, bytes(300))]
        assert sizes == [88, 88, 88, 36]


class TestFromTheGuest:
    def test_bytes_arrive_and_are_acknowledged(self, destination: bytes) -> None:
        talk = dialogue(destination)
        (ack,) = talk.send(ACK | PSH, b"GET / HTTP/1.0\r\n\r\n")
        assert (ack.flags, ack.ack) == (ACK, talk.sequence & 0xFFFFFFFF)
        assert talk.application.total == b"GET / HTTP/1.0\r\n\r\n"

    def test_one_acknowledgement_for_a_batch(self) -> None:
        talk = dialogue()
        first = talk.frame(ACK, b"a" * 1460)
        second = talk.frame(ACK, b"b" * 1460, sequence=talk.sequence + 1460)
        (ack,) = talk.conversation.send(first, second)
        assert ack.ack == (talk.sequence + 2920) & 0xFFFFFFFF

    def test_a_small_segment_is_acknowledged_a_moment_later(self) -> None:
        talk = dialogue()
        assert talk.conversation.send(talk.frame(ACK | PSH, b"one")) == []
        talk.sequence += 3
        assert talk.conversation.after(tcp_table.ACK_DELAY - 1) == []
        assert talk.conversation.send(talk.frame(ACK | PSH, b"two")) == []
        talk.sequence += 3
        (ack,) = talk.conversation.after(1)
        assert ack.ack == talk.sequence & 0xFFFFFFFF
        assert talk.conversation.after(SECOND) == []

    def test_an_answer_acknowledges_and_nothing_else_does(self) -> None:
        talk = dialogue()
        assert talk.conversation.send(talk.frame(ACK | PSH, b"question")) == []
        talk.sequence += 8
        (answer,) = write(talk, b"answer")
        assert answer.ack == talk.sequence & 0xFFFFFFFF
        talk.ack += 6
        talk.send(ACK)
        assert talk.conversation.after(SECOND) == []

    def test_a_frame_that_stands_for_many(self) -> None:
        talk = dialogue()
        data = bytes(range(256)) * 255
        raw = talk.frame(ACK | PSH, data)
        frame = Frame(raw[:50] + b"\xde\xad" + raw[52:], 34, 16, False, Segmentation.TCPV4, 1460)
        (ack,) = talk.conversation.send(frame)
        assert ack.ack == (talk.sequence + len(data)) & 0xFFFFFFFF
        assert talk.application.total == data

    def test_a_wrong_checksum_is_dropped(self, destination: bytes) -> None:
        talk = dialogue(destination)
        raw = talk.frame(ACK | PSH, b"data")
        assert talk.conversation.send(raw[:-1] + b"X") == []
        assert talk.application.total == b""
        assert talk.conversation.core.dropped == 1
        talk.conversation.send(Frame(raw[:-1] + b"X", is_checked=True))
        assert talk.application.total == b"datX"

    def test_out_of_order(self) -> None:
        talk = dialogue(options=MSS + SACK_PERMITTED)
        start = talk.sequence
        (duplicate,) = talk.send(ACK, b"cc", at=start + 4)
        assert duplicate.ack == start & 0xFFFFFFFF
        assert duplicate.options == b"\x01\x01\x05\x0a" + struct.pack(
            ">II", (start + 4) & 0xFFFFFFFF, (start + 6) & 0xFFFFFFFF
        )
        (duplicate,) = talk.send(ACK, b"ee", at=start + 8)
        assert duplicate.options[4:12] == struct.pack(">II", (start + 8) & 0xFFFFFFFF, (start + 10) & 0xFFFFFFFF)
        (ack,) = talk.send(ACK, b"aabb", at=start)
        assert ack.ack == (start + 6) & 0xFFFFFFFF
        (ack,) = talk.send(ACK, b"dd", at=start + 6)
        assert (ack.ack, ack.options) == ((start + 10) & 0xFFFFFFFF, b"")
        assert talk.application.total == b"aabbccddee"

    def test_overlapping_pieces(self) -> None:
        talk = dialogue()
        start = talk.sequence
        for at, data in ((6, b"ghij"), (2, b"cdefgh"), (4, b"ef"), (0, b"ab"), (8, b"ijkl"), (0, b"abcdefghijklmn")):
            talk.send(ACK, data, at=start + at)
        assert talk.application.total == b"abcdefghijklmn"

    def test_bytes_that_were_there_already_are_acknowledged_again(self) -> None:
        talk = dialogue()
        talk.send(ACK, b"hello")
        (ack,) = talk.send(ACK, b"hello", at=talk.sequence - 5)
        assert ack.ack == talk.sequence & 0xFFFFFFFF
        assert talk.application.total == b"hello"

    def test_the_window_closes_as_the_host_takes_nothing_and_opens_as_it_does(self) -> None:
        application = FakeApplication(limit=1000)
        talk = dialogue(application=application, options=MSS + SCALE)
        sent = 0
        while True:
            room = tcp_receive.CAPACITY + 1000 - sent
            (ack,) = talk.send(ACK, bytes(min(32768, room)))
            sent += min(32768, room)
            if sent == tcp_receive.CAPACITY + 1000:
                break
            assert ack.window > 0
        assert ack.window == 0
        (probe_answer,) = talk.send(ACK, b"x", is_counted=False)
        assert (probe_answer.window, probe_answer.ack) == (0, talk.sequence & 0xFFFFFFFF)
        assert talk.endpoint.memory == tcp_receive.CAPACITY
        application.limit = 1 << 30
        (update,) = talk.world(talk.endpoint.resume)
        assert update.window << tcp_receive.SCALE == tcp_receive.CAPACITY
        assert len(application.total) == sent

    def test_what_exceeds_the_window_is_cut(self) -> None:
        application = FakeApplication(limit=0)
        talk = dialogue(application=application)
        for _ in range(9):
            talk.send(ACK, bytes(60000))
        assert talk.endpoint.receive.pending == 524288
        application.limit = 1 << 30
        talk.world(talk.endpoint.resume)
        assert len(application.total) == 524288

    def test_many_tiny_pieces_take_little_memory(self) -> None:
        application = FakeApplication(limit=0)
        talk = dialogue(application=application)
        for _ in range(3000):
            talk.send(ACK, b"x")
        assert len(talk.endpoint.receive._pending) <= 2
        for number in range(1000):
            talk.send(ACK, b"y", at=talk.sequence + 2 + 2 * number)
        assert len(talk.endpoint.receive._early) == tcp_receive.MAX_EARLY

    def test_urgent_data_is_data(self) -> None:
        talk = dialogue()
        talk.send(ACK | 0x20, b"!")
        assert talk.application.total == b"!"

    def test_behind_ip_options(self) -> None:
        talk = dialogue()
        segment = talk.frame(ACK | PSH, b"routed")[34:]
        talk.conversation.send(user_guest.ipv4(6, segment, WORLD, options=b"\x01\x01\x01\x00"))
        (ack,) = talk.conversation.after(SECOND)
        assert ack.ack == (talk.sequence + 6) & 0xFFFFFFFF
        assert talk.application.total == b"routed"

    def test_in_fragments(self) -> None:
        talk = dialogue()
        segment = talk.frame(ACK | PSH, b"x" * 100)[34:]
        assert talk.conversation.send(user_guest.ipv4(6, segment[:64], WORLD, fragment=0x2000)) == []
        talk.conversation.send(user_guest.ipv4(6, segment[64:], WORLD, fragment=8))
        (ack,) = talk.conversation.after(SECOND)
        assert ack.ack == (talk.sequence + 100) & 0xFFFFFFFF


class TestToTheGuest:
    def test_bytes_go_out_with_their_checksums(self, destination: bytes) -> None:
        talk = dialogue(destination)
        (seen,) = write(talk, b"HTTP/1.0 200 OK\r\n")
        assert (seen.flags, seen.payload) == (ACK | PSH, b"HTTP/1.0 200 OK\r\n")
        assert seen.sequence == talk.ack

    def test_cut_to_segments_where_the_guest_takes_no_more(self) -> None:
        talk = dialogue()
        seen = write(talk, bytes(3000))
        assert [(len(one.payload), one.flags) for one in seen] == [(1460, ACK), (1460, ACK), (80, ACK | PSH)]
        assert [one.sequence - talk.ack for one in seen] == [0, 1460, 2920]

    def test_whole_where_it_does(self, destination: bytes) -> None:
        talk = dialogue(destination)
        talk.conversation.offloads = EVERYTHING
        (seen,) = write(talk, bytes(60000))
        assert (len(seen.payload), seen.segment_size) == (60000, 1460 if len(destination) == 4 else 1440)
        (small,) = write(talk, b"last")
        assert small.segment_size == 0

    def test_data_acknowledges_too(self) -> None:
        talk = dialogue()
        take = talk.application.tcp_receive

        def answer(chunks: list[memoryview]) -> int:
            talk.endpoint.write(b"pong")
            return take(chunks)

        talk.application.tcp_receive = answer  # type: ignore[method-assign,assignment]
        (seen,) = talk.send(ACK | PSH, b"ping")
        assert seen.payload == b"pong"

    def test_the_guests_window_is_a_limit(self) -> None:
        talk = dialogue()
        talk.window = 4000
        talk.send(ACK)
        assert talk.endpoint.room == 4000
        assert len(payloads(write(talk, bytes(5000)))) == 4000
        assert talk.endpoint.room == 0
        assert talk.endpoint.has_unsent
        talk.ack += 4000
        (rest,) = talk.send(ACK)
        assert len(rest.payload) == 1000

    def test_a_scaled_window(self) -> None:
        talk = dialogue(options=MSS + SCALE)
        talk.window = 1000
        talk.send(ACK)
        assert talk.endpoint.send.limit - talk.endpoint.send.una == 128000

    def test_room_is_told_once_for_a_batch(self) -> None:
        talk = dialogue()
        write(talk, bytes(3000))
        frames = []
        for acknowledged in (1460, 2920, 3000):
            talk.ack += acknowledged - (talk.ack - talk.endpoint.send.una)
            frames.append(talk.frame(ACK))
        talk.application.rooms = 0
        talk.conversation.send(*frames)
        assert talk.application.rooms == 1

    def test_lost_bytes_are_sent_again_after_the_timeout_and_ever_later(self) -> None:
        talk = dialogue()
        write(talk, b"hello")
        began = talk.conversation.now
        times = []
        for _ in range(4):
            while not (seen := talk.conversation.after(10 * MILLISECOND)):
                pass
            assert [one.payload for one in seen] == [b"hello"]
            times.append(talk.conversation.now - began)
        waits = [later - earlier for earlier, later in zip([0, *times], times, strict=False)]
        assert all(abs(after - 2 * before) <= 20 * MILLISECOND for before, after in pairwise(waits))

    def test_a_guest_that_is_gone_is_given_up(self) -> None:
        talk = dialogue()
        write(talk, b"hello")
        seen = talk.conversation.after(3600 * SECOND)
        assert seen[-1].flags == RST | ACK
        assert [one.payload for one in seen[:-1]] == [b"hello"] * tcp.MAX_RETRIES
        assert talk.application.end is End.TIMED_OUT

    def test_not_while_it_takes_no_frames(self) -> None:
        talk = dialogue()
        write(talk, b"hello")
        talk.conversation.core.tcp.is_stalled = True
        assert talk.conversation.after(3600 * SECOND) == []
        talk.conversation.core.tcp.is_stalled = False
        assert talk.conversation.after(60 * SECOND)[0].payload == b"hello"
        assert talk.application.end is None

    def test_three_duplicates_bring_a_fast_retransmission(self) -> None:
        talk = dialogue()
        sent = write(talk, bytes(8 * 1460))
        talk.ack += 1460
        assert talk.send(ACK) == []
        assert [talk.send(ACK), talk.send(ACK)] == [[], []]
        (again,) = talk.send(ACK)
        assert again.sequence == sent[1].sequence
        assert len(again.payload) == 1460
        talk.ack += 1460  # a partial acknowledgement: the next one is missing as well (RFC 6582, 3.2)
        (again,) = talk.send(ACK)
        assert again.sequence == sent[2].sequence
        talk.ack += 6 * 1460
        assert talk.send(ACK) == []
        assert not talk.endpoint.send.is_recovering

    def test_selective_acknowledgements_name_the_holes(self) -> None:
        talk = dialogue(options=MSS + SACK_PERMITTED)
        sent = write(talk, bytes(8 * 1460))
        at = [one.sequence for one in sent]

        def sack(*blocks: tuple[int, int]) -> list[Seen]:
            words = [at[0] + 1460 * edge for block in blocks for edge in block]
            return talk.send(ACK, options=struct.pack(f">BBBB{len(words)}I", 1, 1, 5, 2 + 4 * len(words), *words))

        assert sack((1, 2)) == []
        assert sack((3, 5), (1, 2)) == []
        again = sack((3, 6), (1, 2))
        assert [one.sequence for one in again] == [at[0], at[2]]
        talk.ack += 8 * 1460
        assert talk.send(ACK) == []
        assert not talk.endpoint.send.is_recovering

    def test_a_zero_window_is_probed(self) -> None:
        talk = dialogue()
        talk.window = 0
        talk.send(ACK)
        assert write(talk, b"wait") == []
        probes = talk.conversation.after(10 * SECOND)
        assert 3 <= len(probes) <= 6
        assert {(one.sequence, one.payload) for one in probes} == {(talk.ack - 1, b"")}
        talk.window = 100
        (seen,) = talk.send(ACK)
        assert seen.payload == b"wait"

    def test_a_window_that_stays_shut_for_long_is_not_the_end(self) -> None:
        talk = dialogue()
        talk.window = 0
        talk.send(ACK)
        write(talk, b"wait")
        for _ in range(60):
            talk.conversation.after(60 * SECOND)
            talk.send(ACK)
        assert talk.application.end is None

    def test_an_acknowledgement_of_what_was_never_sent(self) -> None:
        talk = dialogue()
        talk.ack += 1000
        (challenge,) = talk.send(ACK | PSH, b"lie", is_counted=False)
        assert challenge.ack == talk.sequence & 0xFFFFFFFF
        assert talk.application.total == b""

    def test_segments_that_do_not_fit_behind_the_guest_are_cut_smaller(self, destination: bytes) -> None:
        talk = dialogue(destination)
        (sent, *_) = write(talk, bytes(3000))
        is_v4 = len(destination) == 4
        if is_v4:
            message = struct.pack(">BBHHH", 3, 4, 0, 0, 1000) + sent.raw[14:42]
            error = user_guest.ipv4(1, user_guest.summed(1, message, 2, GATEWAY), GATEWAY)
        else:
            message = struct.pack(">BBHI", 2, 0, 0, 1280) + sent.raw[14 : 14 + 1232]
            error = user_guest.icmpv6(message, user_guest.GATEWAY6, user_guest.IP6, hops=64)
        again = talk.conversation.send(error)
        largest = 1000 - 40 if is_v4 else 1280 - 60
        assert [len(one.payload) for one in again] == [largest] * (3000 // largest) + [3000 % largest]
        assert again[0].sequence == sent.sequence
        assert talk.conversation.send(error) == []  # it is known already

    def test_all_connections_share_what_memory_they_may_have(self) -> None:
        conversation = Conversation()
        conversation.outside.answer = FakeApplication
        assert conversation.core.tcp.share == tcp_table.MAX_SHARE
        for number in range(256):
            TcpDialogue(conversation, source_port=1024 + number).send(SYN)
        assert conversation.core.tcp.share == tcp_table.BUDGET // 256
        conversation.core.new_guest()
        assert conversation.core.tcp.share == tcp_table.MAX_SHARE

    @pytest.mark.parametrize("mtu", [1280, 65521])
    def test_the_smallest_and_the_largest_cable(self, mtu: int, destination: bytes) -> None:
        talk = TcpDialogue(Conversation(make_plan(mtu=mtu)), destination)
        talk.open(bytes((2, 4)) + (65535).to_bytes(2, "big") + SCALE)
        talk.window = 60000
        talk.send(ACK)
        sizes = [len(seen.payload) for seen in write(talk, bytes(65000))]
        assert sum(sizes) == min(65000, talk.endpoint.send.cwnd)
        assert max(sizes) == min(65000, mtu - 40 if len(destination) == 4 else mtu - 60)

    def test_never_more_in_memory_than_the_limit(self) -> None:
        talk = dialogue(options=MSS + SCALE)
        talk.conversation.offloads = EVERYTHING
        for _ in range(10):
            talk.ack = talk.endpoint.send.nxt & 0xFFFFFFFF
            talk.send(ACK)
            while (room := min(talk.endpoint.room, 60000)) > 0:
                write(talk, bytes(room))
            assert talk.endpoint.memory <= tcp_send.MAX_IN_FLIGHT
        assert talk.endpoint.memory >= tcp_send.MAX_IN_FLIGHT - 1460


class TestClosing:
    def test_the_guest_first(self, destination: bytes) -> None:
        talk = dialogue(destination)
        (ack,) = talk.send(ACK | FIN, b"bye")
        assert ack.ack == talk.sequence & 0xFFFFFFFF
        assert talk.application.events == ["opened", "end"]
        assert talk.endpoint.state is State.CLOSE_WAIT
        (seen,) = write(talk, b"still here")
        talk.ack += len(seen.payload)
        (fin,) = talk.world(talk.endpoint.finish)
        assert (fin.flags, fin.sequence) == (ACK | FIN, talk.ack)
        talk.ack += 1
        assert talk.send(ACK) == []
        assert talk.application.end is End.FINISHED
        assert len(talk.conversation.core.tcp) == 0
        assert talk.conversation.core.tcp.endpoints() == []

    def test_the_world_first(self, destination: bytes) -> None:
        talk = dialogue(destination)
        (fin,) = talk.world(talk.endpoint.finish)
        assert fin.flags == ACK | FIN
        assert talk.endpoint.room == 0
        talk.ack += 1
        talk.send(ACK)
        assert talk.endpoint.state is State.FIN_WAIT_2
        talk.send(ACK, b"a half-closed connection still carries bytes")
        endpoint = talk.endpoint
        (ack,) = talk.send(ACK | FIN)
        assert ack.ack == talk.sequence & 0xFFFFFFFF
        assert talk.application.events == ["opened", "end", "closed"]
        assert talk.application.end is End.FINISHED
        assert endpoint.state is State.TIME_WAIT
        (again,) = talk.send(ACK | FIN, at=talk.sequence - 1)  # our acknowledgement was lost
        assert again.ack == talk.sequence & 0xFFFFFFFF
        talk.conversation.after(tcp.TIME_WAIT)
        assert talk.conversation.core.tcp.endpoints() == []

    def test_both_at_once(self) -> None:
        talk = dialogue()
        endpoint = talk.endpoint
        talk.world(endpoint.finish)
        (ack,) = talk.send(ACK | FIN)
        assert (ack.flags, endpoint.state.value) == (ACK, "CLOSING")
        talk.ack += 1
        talk.send(ACK)
        assert (talk.application.end, endpoint.state.value) == (End.FINISHED, "TIME-WAIT")

    def test_a_lost_fin_is_repeated(self) -> None:
        talk = dialogue()
        talk.world(talk.endpoint.finish)
        (again,) = talk.conversation.after(SECOND)
        assert (again.flags, again.sequence) == (ACK | FIN, talk.ack)

    def test_lost_data_takes_its_fin_along(self) -> None:
        talk = dialogue()
        write(talk, b"last words")
        talk.world(talk.endpoint.finish)
        (again,) = talk.conversation.after(SECOND)
        assert (again.flags & FIN, again.payload) == (FIN, b"last words")

    def test_the_end_is_told_behind_the_last_byte(self) -> None:
        application = FakeApplication(limit=2)
        talk = dialogue(application=application)
        talk.send(ACK | FIN, b"abcd")
        assert application.events == ["opened"]
        application.limit = 10
        talk.world(talk.endpoint.resume)
        assert application.total == b"abcd"
        assert application.events == ["opened", "end"]

    def test_slow_readers_get_everything_though_the_guest_is_done(self) -> None:
        application = FakeApplication(limit=0)
        talk = dialogue(application=application)
        endpoint = talk.endpoint
        talk.world(endpoint.finish)
        talk.ack += 1
        talk.send(ACK | FIN, b"abcd")
        talk.conversation.after(100 * SECOND)
        application.limit = 10
        talk.world(endpoint.resume)
        assert application.total == b"abcd"
        assert application.events == ["opened", "end", "closed"]

    def test_fin_waits_for_the_window(self) -> None:
        talk = dialogue()
        talk.window = 2
        talk.send(ACK)
        (seen,) = write(talk, b"abcd")
        assert seen.payload == b"ab"
        assert talk.world(talk.endpoint.finish) == []
        talk.window = 100
        talk.ack += 2
        rest, fin = talk.send(ACK)
        assert (rest.payload, fin.flags & FIN) == (b"cd", FIN)

    @pytest.mark.parametrize("offset", [0, 100])
    def test_a_reset_counts_if_it_is_exact(self, offset: int) -> None:
        talk = dialogue()
        seen = talk.send(RST, at=talk.sequence + offset)
        if offset:  # RFC 5961, 3.2: a challenge, which the real peer would answer with an exact one
            assert [one.flags for one in seen] == [ACK]
            assert talk.application.end is None
        else:
            assert seen == []
            assert talk.application.end is End.RESET

    def test_a_reset_from_outside_the_window_is_ignored(self) -> None:
        talk = dialogue()
        assert talk.send(RST, at=talk.sequence - 10) == []
        assert talk.send(RST, at=talk.sequence + 10_000_000) == []
        assert talk.application.end is None

    def test_a_syn_in_the_middle_is_challenged(self) -> None:
        talk = dialogue()
        (challenge,) = talk.send(SYN, at=talk.sequence + 5)
        assert (challenge.flags, challenge.ack) == (ACK, talk.sequence & 0xFFFFFFFF)
        assert talk.application.end is None

    def test_the_worlds_reset(self) -> None:
        talk = dialogue()
        (reset,) = talk.world(talk.endpoint.abort)
        assert (reset.flags & RST, reset.sequence) == (RST, talk.ack)
        assert len(talk.conversation.core.tcp) == 0

    def test_the_same_ports_again(self) -> None:
        talk = dialogue()
        talk.world(talk.endpoint.finish)
        talk.ack += 1
        talk.send(ACK | FIN)
        again = TcpDialogue(talk.conversation)
        again.sequence = talk.sequence + 1000
        again.open()
        assert talk.conversation.core.tcp.endpoints() == [again.endpoint]

    def test_silence_is_asked_after_and_then_the_end(self) -> None:
        talk = dialogue()
        assert talk.conversation.after(tcp_table.IDLE - 60 * SECOND) == []
        probes = talk.conversation.after(200 * SECOND)
        assert probes
        assert {(one.sequence, one.payload) for one in probes} == {(talk.ack - 1, b"")}
        talk.send(ACK)
        assert talk.conversation.after(3600 * SECOND) == []
        assert talk.conversation.after(2 * 3600 * SECOND)[-1].flags & RST
        assert talk.application.end is End.EVICTED

    def test_a_new_machine_knows_nothing_of_it(self) -> None:
        talk = dialogue()
        assert talk.world(talk.conversation.core.new_guest) == []
        assert talk.application.end is End.EVICTED


class TestIntoTheGuest:
    """Connections that begin outside: forwarded ports."""

    def connect(self, conversation: Conversation, application: FakeApplication) -> list[Seen]:
        def act() -> None:
            application.endpoint = conversation.core.connect(application, b"", 22, 50123)

        return conversation.world(act)

    def known(self) -> Conversation:
        conversation = Conversation()
        conversation.send(user_guest.echo_request(user_guest.GATEWAY, 1, 1))
        return conversation

    def answer(self, syn: Seen, flags: int, options: bytes = b"") -> bytes:
        return user_guest.tcp(syn.source, syn.port, syn.source_port, 5000, syn.sequence + 1, flags, options=options)

    def test_opened(self) -> None:
        conversation, application = self.known(), FakeApplication()
        (syn,) = self.connect(conversation, application)
        assert (syn.flags, syn.source, syn.source_port, syn.destination, syn.port, syn.to) == (
            SYN,
            user_guest.GATEWAY,
            50123,
            IP,
            22,
            MAC,
        )
        assert syn.options == MSS + SACK_PERMITTED + bytes((1, 3, 3, tcp_receive.SCALE))
        (ack,) = conversation.send(self.answer(syn, SYN | ACK, options=MSS))
        assert (ack.flags, ack.ack, ack.sequence) == (ACK, 5001, syn.sequence + 1)
        assert application.events == ["opened"]
        assert application.endpoint is not None
        assert application.endpoint.send.mss == 1460

    def test_refused(self) -> None:
        conversation, application = self.known(), FakeApplication()
        (syn,) = self.connect(conversation, application)
        assert conversation.send(self.answer(syn, RST | ACK)) == []
        assert application.end is End.REFUSED

    def test_turned_away_by_the_guests_firewall(self) -> None:
        conversation, application = self.known(), FakeApplication()
        (syn,) = self.connect(conversation, application)
        message = struct.pack(">BBHHH", 3, 10, 0, 0, 0) + syn.raw[14:42]
        assert conversation.send(user_guest.ipv4(1, user_guest.summed(1, message, 2, GATEWAY), GATEWAY)) == []
        assert application.end is End.REFUSED

    def test_an_answer_to_something_else_is_no_answer(self) -> None:
        conversation, application = self.known(), FakeApplication()
        (syn,) = self.connect(conversation, application)
        frame = user_guest.tcp(syn.source, 22, 50123, 5000, syn.sequence + 9, RST | ACK)
        assert conversation.send(frame) == []
        assert application.end is None

    def test_both_call_at_once(self) -> None:
        conversation, application = self.known(), FakeApplication()
        (syn,) = self.connect(conversation, application)
        (answer,) = conversation.send(user_guest.tcp(syn.source, 22, 50123, 5000, 0, SYN, options=MSS))
        assert (answer.flags, answer.sequence, answer.ack) == (SYN | ACK, syn.sequence, 5001)
        conversation.send(user_guest.tcp(syn.source, 22, 50123, 5001, syn.sequence + 1, ACK))
        assert application.events == ["opened"]

    def test_a_guest_nobody_heard_of_is_looked_for(self) -> None:
        conversation, application = Conversation(), FakeApplication()
        (question,) = self.connect(conversation, application)
        assert question.kind == 0x0806
        assert question.payload[24:28] == IP
        assert [seen.kind for seen in conversation.after(2 * SECOND)] == [0x0806, 0x0806]
        head = struct.pack(">HHBBH", 1, 0x800, 6, 4, 2)
        reply = GATEWAY_MAC + MAC + b"\x08\x06" + head + MAC + IP + GATEWAY_MAC + user_guest.GATEWAY
        (syn,) = conversation.send(reply)
        assert syn.flags == SYN

    def test_nobody_there(self) -> None:
        conversation, application = self.known(), FakeApplication()
        self.connect(conversation, application)
        seen = conversation.after(120 * SECOND)
        assert [one.flags for one in seen] == [SYN] * (tcp.MAX_SYNS - 1) + [RST]
        assert application.end is End.TIMED_OUT

    def test_two_peers_with_one_port(self) -> None:
        conversation = self.known()
        (first,) = self.connect(conversation, FakeApplication())
        (second,) = self.connect(conversation, FakeApplication())
        assert first.source_port == 50123
        assert second.source_port >= 49152
        assert second.source_port != 50123


def test_no_segment_makes_an_exception_or_a_storm() -> None:
    """Every flag combination, in every state, at interesting places."""

    def opened(talk: TcpDialogue) -> None:
        talk.open()

    def held(talk: TcpDialogue) -> None:
        talk.send(SYN)

    def finished(talk: TcpDialogue) -> None:
        talk.open()
        talk.world(talk.endpoint.finish)

    def closing(talk: TcpDialogue) -> None:
        finished(talk)
        talk.send(ACK | FIN)

    def closed_by_guest(talk: TcpDialogue) -> None:
        talk.open()
        talk.send(ACK | FIN)

    def last(talk: TcpDialogue) -> None:
        closed_by_guest(talk)
        talk.world(talk.endpoint.finish)

    stages: list[Callable[[TcpDialogue], None]] = [opened, held, finished, closing, closed_by_guest, last]
    for prepare in stages:
        for flags in range(64):
            for offset in (-1, 0, 1, 70_000, 0x8000_0000):
                for ack in (-1, 0, 1, 2, 0x8000_0000):
                    talk = TcpDialogue(Conversation())
                    prepare(talk)
                    frame = user_guest.tcp(
                        WORLD, 40000, 80, talk.sequence + offset, talk.ack + ack, flags, b"zz" if flags & 8 else b""
                    )
                    assert len(talk.conversation.send(frame)) <= 2
