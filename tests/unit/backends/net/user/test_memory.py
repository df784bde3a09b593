"""A guest that goes on in another process: its network knows it, and its connections are reset on both sides."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from manor.backends.net.user import memory
from manor.backends.net.user.memory import NetMemory
from manor.backends.net.user.tcp_segment import ACK, FIN, RST, SYN
from manor.base.clock import SECOND
from manor.base.errors import ProtocolError
from manor.spec.record import plain, read
from manor.testing.user_guest import IP, IP6, MAC, WORLD, WORLD6, Conversation, Seen, TcpDialogue


def through_a_file(old: Conversation) -> NetMemory:
    known = memory.remember(old.core, old.now)
    assert memory.remember(old.core, old.now) == known
    found = read(NetMemory, json.loads(json.dumps(plain(known))), "network")
    memory.check(found)
    assert found == known
    return found


def go_on(old: Conversation) -> tuple[Conversation, list[Seen]]:
    known = through_a_file(old)
    new = Conversation()
    return new, new.world(lambda: memory.recall(new.core, known, new.now))


@pytest.mark.parametrize("destination", [WORLD, WORLD6], ids=["v4", "v6"])
def test_connections_are_reset(destination: bytes) -> None:
    old = Conversation()
    dialogue = TcpDialogue(old, destination)
    dialogue.open()
    new, seen = go_on(old)
    (reset,) = [each for each in seen if each.flags]
    assert reset.flags & RST
    # The guest takes a reset only with the number that it waits for (RFC 5961, 3.2).
    assert reset.sequence == dialogue.ack & 0xFFFF_FFFF
    # One that waits for another number says so, and gets its reset then.
    dialogue.conversation = new
    (answer,) = dialogue.send(ACK)
    assert answer.flags & RST
    assert answer.sequence == dialogue.ack & 0xFFFF_FFFF
    assert len(new.core.tcp) == 0


def test_what_is_being_opened_or_is_over_needs_no_reset() -> None:
    old = Conversation()
    waiting = TcpDialogue(old, source_port=40001)
    assert waiting.send(SYN, is_counted=False) == []
    over = TcpDialogue(old, source_port=40002)
    over.open()
    over.send(FIN | ACK)
    over.world(lambda: over.endpoint.finish())
    over.ack += 1
    over.send(ACK)
    assert through_a_file(old).flows == ()


def test_leases_and_neighbours_are_kept() -> None:
    old = Conversation()
    lease = old.core.leases.offer(MAC, old.now)
    assert lease is not None
    lease.hostname, lease.deadline = "web", old.now + 100 * SECOND
    other = old.core.leases.offer(b"\x52\x54\0\0\0\x09", old.now)
    assert other is not None
    old.core.cable.seen(IP, MAC)
    old.core.cable.seen(IP6, MAC)
    old.core.cable.advertise(old.now)
    new, _ = go_on(old)
    kept = new.core.leases.get(MAC)
    assert kept is not None
    assert (kept.address, kept.hostname, kept.deadline) == (lease.address, "web", new.now + 100 * SECOND)
    again = new.core.leases.get(other.mac)
    assert again is not None
    assert (again.address, again.deadline) == (other.address, 0)
    assert new.core.cable.neighbours.get(IP) == MAC
    assert new.core.cable.neighbours.get(IP6) == MAC
    assert new.core.cable.next_ra is not None
    assert "10.0.2.15" in new.core.known_addresses


@pytest.mark.parametrize(
    "changes",
    [
        {"neighbours": ((b"12345", MAC),)},
        {"leases": (memory.LeaseMemory(IP, b"1", "", 0),)},
        {"flows": (memory.FlowMemory(b"x", MAC, 0),)},
        {"flows": (memory.FlowMemory(bytes(12), MAC, 1 << 32),)},
        {"neighbours": ((IP, MAC),) * 300},
    ],
)
def test_what_no_network_can_have_known(changes: dict[str, object]) -> None:
    known = replace(memory.remember(Conversation().core, 0), **changes)  # type: ignore[arg-type]
    with pytest.raises(ProtocolError, match="impossible"):
        memory.check(known)
