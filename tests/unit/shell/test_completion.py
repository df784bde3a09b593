"""Completion: against a service in memory, so that names are those that a daemon would give."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from manor.base.errors import ApiError
from manor.drivers.memory import MemoryDriver
from manor.rpc.message import Call
from manor.rpc.protocol.catalog import REMOTE
from manor.service.client import Client
from manor.service.dispatch import handle
from manor.service.service import Service
from manor.shell.completion import complete
from manor.shell.link import RemoteError, Stream
from manor.shell.session import Session, Settings

XML = """<domain type='test'><name>web1</name><memory unit='MiB'>64</memory><os><type>hvm</type></os><devices>
<disk type='file'><source file='/a.img'/><target dev='vda'/></disk>
<interface type='user'><mac address='52:54:00:11:22:33'/></interface></devices></domain>"""


class ServiceLink:
    """A connection to a service of this process."""

    uri = "test:///default"

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        service = Service({self.uri: MemoryDriver}, self.uri)
        self._session: Any = type("FakeSession", (), {"is_read_only": False})()
        self._session.state = Client(service, self._session, "ann")
        self.call("connect_open", None, 0)

    def call(self, name: str, *arguments: Any) -> Any:
        procedure = REMOTE[name]

        async def work() -> Any:
            sent = procedure.decode_arguments(bytes(procedure.encode_arguments(arguments)))
            result = handle(self._session, Call(0, procedure, sent))
            return await result if asyncio.iscoroutine(result) else result

        try:
            value = self._loop.run_until_complete(work())
        except ApiError as error:
            raise RemoteError(str(error), error.code) from None
        return procedure.decode_result(bytes(procedure.encode_result(value)))

    def call_with_files(self, name: str, *arguments: Any, files: Sequence[int]) -> Any:
        raise RemoteError("no descriptors", 3)

    def open_stream(self, name: str, *arguments: Any) -> tuple[Any, Stream]:
        raise RemoteError("no streams", 3)

    def subscribe(self, kind: str, event: str, about: Any) -> None:
        raise RemoteError("no events", 3)

    def unsubscribe(self) -> None:
        """Nothing to do."""

    def next_event(self, timeout: float | None) -> tuple[str, Any] | None:
        return None

    def close(self) -> None:
        self._loop.close()


@pytest.fixture(scope="module")
def session() -> Iterator[Session]:
    link = ServiceLink()
    web1 = link.call("domain_define_xml", XML)
    link.call("domain_snapshot_create_xml", web1, "<domainsnapshot><name>clean</name></domainsnapshot>", 0)
    link.call("network_define_xml", "<network><name>lan</name></network>")
    pool = link.call("storage_pool_lookup_by_name", "default-pool")
    link.call("storage_vol_create_xml", pool, "<volume><name>v</name><capacity>1024</capacity></volume>", 0)
    link.call("storage_pool_define_xml", "<pool type='dir'><name>off</name><target><path>/o</path></target></pool>", 0)
    link.call(
        "secret_define_xml", "<secret><uuid>33333333-2222-3333-4444-555555555555</uuid></secret>", 0
    )
    yield Session(Settings(), lambda settings: link)
    link.close()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("domin", ["dominfo"]),
        ("list --with-s", ["--with-snapshot"]),
        ("list --all --al", []),
        ("dominfo ", ["test", "web1"]),
        ("start ", ["web1"]),
        ("destroy ", ["test"]),
        ("pwd; dominfo --domain w", ["web1"]),
        ("dominfo --domain=web1 ", []),
        ("snapshot-revert web1 ", ["clean"]),
        ("snapshot-list web1 --from ", ["clean"]),
        ("snapshot-revert test ", []),
        ("checkpoint-delete test ", []),
        ("net-start ", ["lan"]),
        ("net-destroy ", ["default"]),
        ("net-info ", ["default", "lan"]),
        ("pool-start ", ["off"]),
        ("pool-destroy ", ["default-pool"]),
        ("pool-info ", ["default-pool", "off"]),
        ("vol-info ", ["/default-pool/v"]),
        ("vol-info --pool default-pool ", ["v"]),
        ("domblkinfo web1 ", ["vda"]),
        ("detach-disk web1 v", ["vda"]),
        ("change-media web1 ", ["vda"]),
        ("domif-getlink web1 5", ["52:54:00:11:22:33"]),
        ("detach-interface web1 user --mac ", ["52:54:00:11:22:33"]),
        ("iface-mac l", ["lo"]),
        ("nodedev-dumpxml comp", ["computer"]),
        ("nwfilter-dumpxml ", []),
        ("secret-dumpxml 3", ["33333333-2222-3333-4444-555555555555"]),
        ("event test life", ["lifecycle"]),
        ("net-event default ", ["lifecycle"]),
        ("reboot test --mode ac", ["acpi"]),
        ("domif-setlink web1 x u", ["up"]),
        ("help dominf", ["dominfo"]),
        ("help host", ["host", "hostname"]),
        ("nonsense ", []),
        ("dominfo nobody ", []),
        ("snapshot-info nobody ", []),
        ('echo "', []),
    ],
)
def test_what_a_word_may_become(session: Session, text: str, words: list[str]) -> None:
    assert complete(session, text) == words


def test_files(session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "d.xml").write_text("")
    (tmp_path / "dir").mkdir()
    (tmp_path / "dir" / "x.xml").write_text("")
    monkeypatch.chdir(tmp_path)
    assert complete(session, "define d") == ["d.xml", "dir/"]
    assert complete(session, "define dir/") == ["dir/x.xml"]
    assert complete(session, f"define --file {tmp_path}/dir/") == [f"{tmp_path}/dir/x.xml"]
    assert complete(session, "define /nowhere/") == []
