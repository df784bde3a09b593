"""Read-only connections to the daemon and to the real libvirtd: every procedure is called at both, past any checks of
clients. What libvirtd refuses there, the daemon has to refuse; and nothing has changed afterwards.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from manor.rpc.connection import ClientConnection
from manor.rpc.message import CallFailed, Event, Message, Reply
from manor.rpc.protocol import records
from manor.rpc.protocol.catalog import QEMU, REMOTE, Procedure
from manor.rpc.protocol.errors import ErrorCode
from manor.testing.daemon import DaemonProcess
from manor.testing.libvirtd import missing, running_libvirtd

PROCEDURES = [procedure for procedure in (*REMOTE.values(), *QEMU.values()) if not procedure.is_event]
ABOUT_THE_CONNECTION = {
    "connect_open", "connect_close", "auth_list", "auth_polkit", "auth_sasl_init", "auth_sasl_start", "auth_sasl_step",
}  # fmt: skip
CALLED = [procedure for procedure in PROCEDURES if procedure.name not in ABOUT_THE_CONNECTION]
CHANGES = re.compile(
    r"_(create|define|undefine|destroy|shutdown|reboot|reset|suspend|resume|save|restore|attach|detach|update|set|inject"
    r"|send|migrate|upload|download|wipe|resize|delete|build|rename|abort|commit|revert|dump|start|stop|rebase|pull|copy"
    r"|add|del|pin|write|wakeup|freeze|thaw|trim|open|command|begin|end|clone|refresh|rollback|fstrim)(_|$)"
)
"""Words that say that something is changed, or that a secret or a console is reached."""
HARMLESS = {
    "connect_set_identity",  # who a client says it is changes nothing here
    "domain_get_emulator_pin_info", "domain_get_vcpu_pin_info",
    "domain_has_managed_save_image", "domain_managed_save_get_xml_desc",
    "domain_migrate_get_compression_cache", "domain_migrate_get_max_downtime",
}  # fmt: skip
"""They have such a word in their name and only tell."""
STRICTER = {
    "connect_baseline_hypervisor_cpu", "domain_fd_associate", "domain_open_graphics", "domain_rename",
    "domain_send_process_signal", "domain_set_launch_security_state", "qemu_connect_domain_monitor_event_deregister",
    "qemu_domain_attach",
}  # fmt: skip
"""What the daemon refuses although libvirtd's test driver, which has no such thing, answers before it checks."""
WAYS_IN = 5.0
"""Seconds for an answer."""


def value(kind: str, known: dict[str, Any]) -> Any:
    """Something of a wire type: an object that is there, or nothing much."""
    if kind.endswith("?"):
        return known.get(kind[:-1])
    if kind in known:
        return known[kind]
    if "[" in kind:
        element, _, size = kind.rstrip("]").partition("[")
        size = size.lstrip(":")
        if element in ("char", "text"):
            empty: Any = b"" if element == "char" else ""
            return bytes(int(size)) if element == "char" and size and ":" not in kind else empty
        return []
    simple = {"str": "x", "bytes": b"", "uuid": bytes(16), "double": 0.0}
    if kind in simple:
        return simple[kind]
    if kind in records.LAYOUTS:
        record, fields = records.LAYOUTS[kind]
        return record(*(value(field, known) for _, field in fields))
    return 0


class Raw:
    """A connection without any check of its own."""

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(path)
        self._socket.settimeout(WAYS_IN)
        self._connection = ClientConnection()

    def call(self, procedure: Procedure, *arguments: Any) -> Message | None:
        """The answer; None if there was none in time."""
        serial = self._connection.call(procedure, arguments)
        for outgoing in self._connection.take_outgoing():
            self._socket.sendall(outgoing.data)
        while True:
            try:
                data = self._socket.recv(1 << 20)
            except TimeoutError:
                return None
            if not data:
                raise AssertionError(f"{procedure.name} ended the connection")
            for message in self._connection.receive(data):
                if isinstance(message, Reply | CallFailed) and message.serial == serial:
                    return message
                assert not isinstance(message, Reply | CallFailed | Event)

    def close(self) -> None:
        self._socket.close()
        self._connection.close()


def objects(path: str) -> dict[str, Any]:
    """Objects of the test driver, by the name of their record."""
    raw = opened(path)
    found = {}
    for name, procedure, arguments in (
        ("Domain", "domain_lookup_by_name", ("test",)),
        ("Network", "network_lookup_by_name", ("default",)),
        ("StoragePool", "storage_pool_lookup_by_name", ("default-pool",)),
        ("Interface", "interface_lookup_by_name", ("eth1",)),
        ("NodeDevice", "node_device_lookup_by_name", ("computer",)),
    ):
        answer = raw.call(REMOTE[procedure], *arguments)
        if isinstance(answer, Reply):
            found[name] = answer.value
    raw.close()
    return found


def opened(path: str) -> Raw:
    raw = Raw(path)
    # libvirtd without root rights has one socket: the client says there that it only looks.
    assert isinstance(raw.call(REMOTE["connect_open"], "test:///default", 0 if path.endswith("-ro") else 1), Reply)
    return raw


def refused_at(path: str, procedures: Sequence[Procedure] = CALLED) -> tuple[set[str], set[str]]:
    """(procedures that are refused there as forbidden, those that are known there at all)."""
    known = objects(path)
    refused, present = set(), set()
    for procedure in procedures:
        raw = opened(path)
        answer = raw.call(procedure, *(value(field.type, known) for field in procedure.arguments))
        raw.close()
        if isinstance(answer, CallFailed):
            if answer.error.code == ErrorCode.OPERATION_DENIED:
                refused.add(procedure.name)
            if answer.error.code != ErrorCode.RPC:
                present.add(procedure.name)
        else:
            present.add(procedure.name)
    return refused, present


@pytest.fixture(scope="module")
def ours(daemon: DaemonProcess) -> set[str]:
    uri = daemon.uri("test", "/default")

    def state() -> list[str]:
        looks = ("list --all", "dumpxml test", "net-list --all", "pool-list --all", "snapshot-list test")
        return [daemon.virsh(*each.split(), uri=uri) for each in looks]

    before = state()
    refused, _ = refused_at(f"{daemon.socket}-ro")
    assert state() == before
    return refused


@pytest.mark.skipif(missing() is not None, reason=missing() or "")
def test_what_libvirtd_refuses_is_refused(ours: set[str]) -> None:
    refused: set[str] = set()
    present: set[str] = set()
    for start in range(0, len(CALLED), 100):
        # A libvirtd 9.0 that has answered some hundred of these answers no more.
        with running_libvirtd() as path:
            found = refused_at(str(path), CALLED[start : start + 100])
        refused |= found[0]
        present |= found[1]
    assert len(refused) > 150
    assert refused - ours == set()
    # And little else: what may be looked at there may be looked at here.
    extra = {name for name in ours - refused if name in present}
    assert extra <= STRICTER, sorted(extra - STRICTER)




def test_whatever_changes_something_is_refused(ours: set[str]) -> None:
    changing = {procedure.name for procedure in PROCEDURES if CHANGES.search(procedure.name)} - ABOUT_THE_CONNECTION
    assert changing - ours == HARMLESS
    assert len(ours) > 200


def test_the_declarations_say_the_same(ours: set[str], daemon: DaemonProcess) -> None:
    known = objects(f"{daemon.socket}-ro")
    for procedure in CALLED:
        arguments = procedure.decode_arguments(
            bytes(procedure.encode_arguments([value(field.type, known) for field in procedure.arguments]))
        )
        assert (procedure.missing_for_read_only(arguments) is not None) == (procedure.name in ours), procedure.name


def test_a_read_only_client_of_the_writable_socket_is_read_only(daemon: DaemonProcess) -> None:
    raw = Raw(str(daemon.socket))
    raw.call(REMOTE["connect_open"], "test:///default", 1)
    domain = raw.call(REMOTE["domain_lookup_by_name"], "test")
    assert isinstance(domain, Reply)
    answer = raw.call(REMOTE["domain_destroy"], domain.value)
    raw.close()
    assert isinstance(answer, CallFailed)
    assert answer.error.code == ErrorCode.OPERATION_DENIED


def test_the_socket_is_beside_the_other(daemon: DaemonProcess) -> None:
    assert Path(f"{daemon.socket}-ro").is_socket()
