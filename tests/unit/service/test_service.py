"""What the faces share: events, the error object, the table of procedures."""

from __future__ import annotations

from typing import Any

import pytest

from manor.base.errors import ApiError, ConfigError, HostError
from manor.drivers.api import Kind, Notice
from manor.rpc.protocol.catalog import REMOTE
from manor.rpc.protocol.records import Domain, Network, Secret
from manor.service.dispatch import PROCEDURES, translate
from manor.service.events import EventHub
from manor.service.journal import Journal
from manor.service.problem import problem_of

DOMAIN = Domain("web1", bytes(16), 3)


class Listener:
    """In a session's place."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, tuple[Any, ...]]] = []

    def send_event(self, procedure: Any, *arguments: Any) -> None:
        procedure.encode_arguments(arguments)  # it has to fit the wire
        self.sent.append((procedure.name, arguments))


def notice(event: int = 2, uuid: bytes = bytes(16)) -> Notice:
    return Notice(Kind.LIFECYCLE, Domain("web1", uuid, 3), (event, 0))


def test_events_go_to_who_asked_for_them() -> None:
    hub, everything, one, old, other = EventHub(Journal()), Listener(), Listener(), Listener(), Listener()
    first = hub.register(everything, "u", "domain", 0, None)  # type: ignore[arg-type]
    hub.register(one, "u", "domain", 0, b"x" * 16)  # type: ignore[arg-type]
    hub.register(old, "u", "domain", 0, None, is_old=True)  # type: ignore[arg-type]
    hub.register(other, "v", "domain", 0, None)  # type: ignore[arg-type]
    hub.publish("u", notice())
    assert everything.sent == [("domain_event_callback_lifecycle", (first, DOMAIN, 2, 0))]
    assert old.sent == [("domain_event_lifecycle", (DOMAIN, 2, 0))]
    assert one.sent == other.sent == []
    hub.deregister(everything, "domain", first)  # type: ignore[arg-type]
    hub.forget(old)  # type: ignore[arg-type]
    hub.publish("u", notice())
    assert (len(everything.sent), len(old.sent)) == (1, 1)
    with pytest.raises(ApiError, match="not registered"):
        hub.deregister(everything, "domain", first)  # type: ignore[arg-type]
    with pytest.raises(ApiError, match="unsupported event ID 99"):
        hub.register(one, "u", "domain", 99, None)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", list(Kind))
def test_every_kind_of_notice_fits_the_wire(kind: Kind) -> None:
    values: dict[Kind, tuple[object, ...]] = {
        Kind.LIFECYCLE: (2, 0), Kind.BALLOON: (1 << 20,), Kind.DEVICE_ADDED: ("disk0",),
        Kind.DEVICE_REMOVED: ("disk0",), Kind.DEVICE_REMOVAL_FAILED: ("disk0",), Kind.METADATA: (1, None),
        Kind.AGENT: (1, 1), Kind.NETWORK: (2, 0),
        Kind.POOL: (2, 0), Kind.SECRET: (0, 0),
    }  # fmt: skip
    hub, listener = EventHub(Journal()), Listener()
    for name, count in (("domain", 27), ("network", 2), ("pool", 2), ("secret", 2)):
        for event in range(count):
            hub.register(listener, "u", name, event, None)  # type: ignore[arg-type]
    subject: Any = Network("x", bytes(16)) if kind in (Kind.NETWORK, Kind.POOL, Kind.POOL_REFRESH) else DOMAIN
    if kind in (Kind.SECRET, Kind.SECRET_VALUE):
        subject = Secret(bytes(16), 2, "client.x")
    hub.publish("u", Notice(kind, subject, values.get(kind, ())))
    assert len(listener.sent) == 1


def test_errors_become_one_object_and_libvirts_numbers() -> None:
    problem = problem_of(ApiError(55, 20, "Requested operation is not valid: domain is not running; start it first"))
    assert problem.as_dict() == {
        "code": 55, "title": "The state does not allow it", "cause": "domain is not running",
        "fix": ["start it first"], "evidence": [], "docs": "",
    }  # fmt: skip
    assert problem_of(HostError("no room", 28, "/x")).evidence == ("file: /x", "errno: 28")
    assert translate(ConfigError("disk", "it is missing")).code == 67
    assert translate(HostError("no room")).code == 38


def test_every_procedure_is_one_of_the_catalog_and_the_first_ones_are_there() -> None:
    """The procedures of ordinary sessions of virsh, virt-install and virt-manager."""
    first = (
        "1 2 4 6 7 9 10 11 12 14 15 16 19 23 24 27 28 29 33 34 39 46 52 54 55 60 66 77 78 79 83 84 87 88 90 91 92 93 "
        "95 97 98 99 100 111 112 121 122 150 151 154 160 161 163 182 183 185 186 187 189 192 193 199 201 204 212 231 "
        "244 "
        "245 258 265 273 274 281 282 283 285 313 316 342 344 350 353 360 361 368 374 426"
    )
    numbers = [int(word) for word in first.split()]
    assert [number for number in numbers if REMOTE.by_number[number].name not in PROCEDURES] == []
