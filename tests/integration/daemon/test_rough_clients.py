"""Clients that send nonsense, stall, vanish, or are too many: they harm themselves and nobody else."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from manor.daemon import server
from manor.rpc.connection import CHUNK_SIZE
from manor.rpc.message import StreamData
from manor.rpc.protocol.records import Domain, StorageVol
from manor.testing.daemon import DaemonProcess
from manor.testing.raw_client import RawClient, Refused, raw_client
from tests.unit.rpc.test_fuzz import mutated

POOL_MIB = 64


@pytest.fixture(scope="module")
def daemon(place: Path) -> Iterator[DaemonProcess]:
    """Of this module: a small one."""
    limits = ("max_clients=130", "max_clients_user=120", "max_calls=3", "keepalive_interval=1", "keepalive_count=2")
    made = DaemonProcess(place, *(word for limit in limits for word in ("--set", limit)))
    made.start()
    yield made
    assert made.end() == 0
    assert "Traceback" not in made.log


@pytest.fixture(autouse=True)
def _others_are_served(daemon: DaemonProcess) -> Iterator[None]:
    """Whatever a test does: one client that was there before works on, and nothing is left of the others."""
    with raw_client(daemon.socket) as witness:
        files = daemon.open_files()
        yield
        assert witness.call("connect_num_of_domains") >= 0
        wait_for(lambda: daemon.open_files() <= files)


def wait_for(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.02)


def domain(client: RawClient) -> Domain:
    found = client.call("domain_lookup_by_name", "test")
    assert isinstance(found, Domain)
    return found


@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
@given(frames=st.lists(mutated() | st.binary(min_size=4, max_size=64), min_size=1, max_size=4))
def test_nonsense_ends_its_own_connection_at_most(daemon: DaemonProcess, frames: list[bytes]) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(daemon.socket))
        client.settimeout(20)
        with suppress(ConnectionError):
            client.sendall(b"".join(frames))
            client.shutdown(socket.SHUT_WR)
            while client.recv(65536):
                pass
    assert daemon.process is not None
    assert daemon.process.poll() is None
    assert daemon.resident() < 200


def test_a_client_that_says_nothing_has_no_place_for_ever(
    daemon: DaemonProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    with raw_client(daemon.socket, None, server.HANDSHAKE_SECONDS + 10) as silent, raw_client(daemon.socket) as other:
        silent.wait_end(server.HANDSHAKE_SECONDS + 10)
        assert other.call("connect_get_hostname")  # it has spoken before, and may be silent as long as it likes


def test_a_client_that_answers_no_question_is_given_up(daemon: DaemonProcess) -> None:
    with raw_client(daemon.socket) as dead, raw_client(daemon.socket) as alive:
        for client in (dead, alive):
            assert client.call("connect_supports_feature", 10) == 1
        limit = time.monotonic() + 20
        while "it has not answered for 2 s" not in daemon.log:
            assert time.monotonic() < limit
            alive.others += alive.receive()  # pings, which are answered
            alive.flush()
        dead.wait_end()
        assert alive.call("connect_get_hostname")


def test_who_does_not_read_is_not_read(daemon: DaemonProcess) -> None:
    """Thousands of calls whose answers nobody fetches: they wait in the client's own socket."""
    with raw_client(daemon.socket, timeout=1.0) as client:
        before = daemon.resident()
        one = domain(client)

        def ask() -> None:
            for _ in range(200_000):
                client.send("domain_get_xml_desc", one, 0)

        with pytest.raises(TimeoutError):
            ask()
        assert daemon.resident() < before + 24


@pytest.mark.slow
def test_who_asks_for_events_and_does_not_read_them_is_cut_off(daemon: DaemonProcess) -> None:
    with raw_client(daemon.socket) as deaf, raw_client(daemon.socket) as busy:
        for _ in range(60):  # each of them gets each event
            deaf.call("connect_domain_event_callback_register_any", 0, None)
        one = domain(busy)
        before = daemon.resident()
        limit = time.monotonic() + 60
        while "does not read its events" not in daemon.log:
            assert time.monotonic() < limit
            for _ in range(50):
                busy.call("domain_suspend", one)
                busy.call("domain_resume", one)
        assert daemon.resident() < before + 64


def test_a_download_that_nobody_reads_waits_and_ends_with_its_client(daemon: DaemonProcess) -> None:
    with raw_client(daemon.socket) as client:
        volume = make_volume(client, "slow")
        before = daemon.resident()
        client.send("storage_vol_download", volume, 0, 0, 0)
        time.sleep(1.0)
        assert daemon.resident() < before + 24  # of 64 MiB
    with raw_client(daemon.socket) as client:
        client.call("storage_vol_delete", volume, 0)


@pytest.mark.parametrize("procedure", ["storage_vol_upload", "storage_vol_download"])
def test_a_client_that_vanishes_in_mid_stream(daemon: DaemonProcess, procedure: str) -> None:
    with raw_client(daemon.socket) as client:
        volume = make_volume(client, "half")
        serial = client.send(procedure, volume, 0, 0, 0)
        if procedure == "storage_vol_upload":
            client.wait(serial)
            for _ in range(4):
                client.connection.send_stream_data(serial, b"\xaa" * CHUNK_SIZE)
            client.flush()
        else:
            while not any(isinstance(each, StreamData) for each in client.others):
                client.others += client.receive()
    with raw_client(daemon.socket) as client:  # the volume can be used by the next
        serial = client.send("storage_vol_upload", volume, 0, 0, 0)
        client.wait(serial)
        client.connection.send_stream_data(serial, b"whole")
        client.connection.finish_stream(serial)
        client.flush()
        wait_for(lambda: bool(client.receive()))
        client.call("storage_vol_delete", volume, 0)


def test_a_console_whose_client_vanishes_is_there_for_the_next(daemon: DaemonProcess) -> None:
    for _ in range(3):
        with raw_client(daemon.socket) as client:
            serial = client.send("domain_open_console", domain(client), None, 0)
            client.wait(serial)
            while not any(isinstance(each, StreamData) for each in client.others):
                client.others += client.receive()


def test_a_client_that_trickles_its_frame_disturbs_nobody(daemon: DaemonProcess) -> None:
    frame = struct.pack(">IIIiiIi", 28, 0x20008086, 1, 59, 0, 7, 0)
    with raw_client(daemon.socket) as slow, raw_client(daemon.socket) as other:
        for byte in frame:
            slow.socket.sendall(bytes([byte]))
            other.call("connect_num_of_domains")
        assert slow.socket.recv(28, socket.MSG_WAITALL)[20:28] == struct.pack(">Ii", 7, 0)


def test_a_hundred_clients_and_no_more_than_may_come(daemon: DaemonProcess) -> None:
    with ExitStack() as stack:
        clients = [stack.enter_context(raw_client(daemon.socket)) for _ in range(100)]
        serials = [client.send("connect_num_of_domains") for client in clients]
        assert {client.wait(serial) for client, serial in zip(clients, serials, strict=True)} == {1}


        def come() -> None:
            for _ in range(30):
                clients.append(stack.enter_context(raw_client(daemon.socket)))

        with pytest.raises(Refused, match="too many clients: at most 130, and 120 of one user"):
            come()
        assert len(clients) == 119  # and the witness
    with raw_client(daemon.socket) as client:
        wait_for(lambda: client.call("connect_get_hostname") != "")


def test_calls_beyond_the_limit_wait_and_are_all_answered(daemon: DaemonProcess) -> None:
    with raw_client(daemon.socket) as client:
        volume = make_volume(client, "many")
        serials = [client.send("storage_vol_get_info", volume) for _ in range(200)]
        for serial in reversed(serials):
            assert client.wait(serial) is not None
        client.call("storage_vol_delete", volume, 0)


def make_volume(client: RawClient, name: str) -> StorageVol:
    pool = client.call("storage_pool_lookup_by_name", "default-pool")
    xml = f"<volume><name>{name}</name><capacity unit='MiB'>{POOL_MIB}</capacity></volume>"
    found = client.call("storage_vol_create_xml", pool, xml, 0)
    assert isinstance(found, StorageVol)
    return found
