"""The client against a real libvirtd with its test driver, compared with virsh on the same daemon."""

from __future__ import annotations

import asyncio
import re
import subprocess
import uuid
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from manor.base.errors import HostError, ProtocolError
from manor.client import Connection, ErrorCode, RemoteError, StoragePool, connect, sync
from manor.rpc.protocol import records
from manor.rpc.protocol.catalog import REMOTE, Procedure
from manor.testing.libvirtd import missing, program_path, running_libvirtd

pytestmark = pytest.mark.skipif(missing() is not None, reason=missing() or "")

TEST_UUID = uuid.UUID("6695eb01-f6a4-8304-79aa-97f2502e193f")
DOMAIN_XML = "<domain type='test'><name>{}</name><memory>65536</memory><vcpu>2</vcpu><os><type>hvm</type></os></domain>"
VOLUME_XML = "<volume><name>{}</name><capacity unit='bytes'>1048576</capacity></volume>"


@pytest.fixture(scope="module")
def socket_path() -> Iterator[Path]:
    with running_libvirtd() as path:
        yield path


@pytest.fixture
def uri(socket_path: Path) -> str:
    return f"test+unix:///default?socket={socket_path}"


def run(uri: str, work: Callable[[Connection], Coroutine[Any, Any, None]], *, is_read_only: bool = False) -> None:
    async def main() -> None:
        async with connect(uri, is_read_only=is_read_only) as connection:
            await asyncio.wait_for(work(connection), 30)

    asyncio.run(main())


def virsh(uri: str, *command: str) -> str:
    program = program_path("virsh")
    assert program is not None
    done = subprocess.run(
        [program, "-c", uri, "-q", *command], capture_output=True, text=True, check=True, env={"LC_ALL": "C"}
    )
    return done.stdout.strip()


def test_the_connection(uri: str) -> None:
    async def work(connection: Connection) -> None:
        assert await connection.uri() == "test:///default"
        assert await connection.hostname() == virsh(uri, "hostname")
        assert await connection.type() == "TEST"
        assert await connection.version() == 2
        assert await connection.lib_version() // 1_000_000 >= 5
        assert await connection.is_secure()
        assert (await connection.capabilities()).strip() == virsh(uri, "capabilities")
        assert await connection.max_vcpus("test") == int(virsh(uri, "maxvcpus"))
        assert str(await connection.cpu_models("x86_64")) == str(virsh(uri, "cpu-models", "x86_64").split())
        assert await connection.supports_feature(10)

    run(uri, work)


def test_a_domain_as_virsh_sees_it(uri: str) -> None:
    async def work(connection: Connection) -> None:
        (domain,) = await connection.domains(1)
        assert domain == await connection.domain("test") == await connection.domain(TEST_UUID)
        assert domain == await connection.domain(domain.id)
        assert domain.uuid == TEST_UUID
        assert await connection.domain_count() == 1
        info = dict(re.split(r":\s+", line, maxsplit=1) for line in virsh(uri, "dominfo", "test").splitlines())
        found = await domain.info()
        assert info["UUID"] == str(domain.uuid)
        assert info["Max memory"] == f"{found.max_memory} KiB"
        assert info["Used memory"] == f"{found.memory} KiB"
        assert info["CPU(s)"] == str(found.vcpus)
        assert info["OS Type"] == await domain.os_type()
        assert (info["State"], (await domain.state()).state, found.state) == ("running", 1, 1)
        assert (info["Persistent"], await domain.is_persistent()) == ("yes", True)
        assert (info["Autostart"], await domain.autostart()) == ("disable", False)
        assert info["Security model"] == (await connection.node.security_model()).model
        assert (await domain.xml()).strip() == virsh(uri, "dumpxml", "test")
        assert await domain.stats() == {"state.state": 1, "state.reason": 0}
        assert await domain.is_active()
        assert not await domain.is_updated()
        assert await domain.max_memory() == found.max_memory
        assert await domain.vcpu_count() == 2
        assert await domain.scheduler_type() == "fair"
        assert await domain.scheduler_params() == {"weight": 50}
        await domain.set_scheduler_params({"weight": 50})
        assert (await domain.control_info()).state == 0
        # Each connection to the test driver's default is a world of its own: two vCPUs pinned to all.
        assert [info.number for info, _ in await domain.vcpus(16)] == [0, 1]
        assert await domain.messages() == []

    run(uri, work)


def test_the_life_of_a_domain_and_its_events(uri: str) -> None:
    async def work(connection: Connection) -> None:
        async with connection.events() as events:
            domain = await connection.define_domain(DOMAIN_XML.format("web1"))
            assert domain.id == -1
            await domain.create()
            assert domain.id > 0
            await domain.suspend()
            assert await domain.state() == (3, 1)
            await domain.resume()
            await domain.set_memory(32768)
            assert (await domain.info()).memory == 32768
            await domain.set_autostart(True)
            assert await domain.autostart()
            await domain.set_metadata(0, "a web server")
            assert await domain.metadata(0) == "a web server"
            await domain.reboot()
            await domain.destroy()
            await domain.undefine()
            found = [(await asyncio.wait_for(anext(events), 5)) for _ in range(6)]
        assert [event.details.event for event in found] == [0, 2, 3, 4, 5, 1]
        assert {event.subject.name for event in found} == {"web1"}
        with pytest.raises(RemoteError) as caught:
            await connection.domain("web1")
        assert caught.value.code == ErrorCode.NO_DOMAIN
        transient = await connection.create_domain(DOMAIN_XML.format("web2"))
        assert not await transient.is_persistent()
        await transient.shutdown()

    run(uri, work)


def test_events_of_one_domain_only(uri: str) -> None:
    async def work(connection: Connection) -> None:
        test = await connection.domain("test")
        other = await connection.create_domain(DOMAIN_XML.format("other"))
        async with connection.events(of=test) as events, connection.events("reboot") as reboots:
            await other.suspend()
            await test.suspend()
            assert (await asyncio.wait_for(anext(events), 5)).subject.name == "test"
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(events), 0.1)
            assert reboots.lost == 0
        with pytest.raises(ValueError, match="no event nonsense"):
            connection.events("nonsense")

    run(uri, work)


def test_snapshots(uri: str) -> None:
    async def work(connection: Connection) -> None:
        domain = await connection.domain("test")
        assert not await domain.has_current_snapshot()
        first = await domain.create_snapshot("<domainsnapshot><name>first</name></domainsnapshot>")
        second = await domain.create_snapshot("<domainsnapshot><name>second</name></domainsnapshot>")
        assert {found.name for found in await domain.snapshots()} == {"first", "second"}
        assert (await domain.current_snapshot()).name == "second"
        assert (await second.parent()).name == "first"
        assert [child.name for child in await first.children()] == ["second"]
        assert await second.is_current()
        assert await second.has_metadata()
        assert "<name>second</name>" in await (await domain.snapshot("second")).xml()
        await first.revert()
        assert await first.is_current()
        await second.delete()
        assert [found.name for found in await domain.snapshots()] == ["first"]

    run(uri, work)


def test_managed_save(uri: str) -> None:
    async def work(connection: Connection) -> None:
        domain = await connection.domain("test")
        await domain.managed_save()
        assert await domain.has_managed_save()
        assert not await domain.is_active()
        await domain.remove_managed_save()
        assert not await domain.has_managed_save()

    run(uri, work)


def test_networks(uri: str) -> None:
    async def work(connection: Connection) -> None:
        (network,) = await connection.networks()
        assert network == await connection.network("default") == await connection.network(network.uuid)
        assert await network.is_active()
        assert await network.is_persistent()
        assert await network.bridge_name() == "virbr0"
        assert "<name>default</name>" in await network.xml()
        async with connection.events(of="network") as events:
            await network.destroy()
            await network.create()
            assert [(await asyncio.wait_for(anext(events), 5)).details.event for _ in range(2)] == [3, 2]
        await network.set_autostart(True)
        assert await network.autostart()
        made = await connection.define_network("<network><name>n1</name></network>")
        assert {found.name for found in await connection.networks()} == {"default", "n1"}
        await made.undefine()

    run(uri, work)


def test_storage(uri: str) -> None:
    async def work(connection: Connection) -> None:
        (pool,) = await connection.storage_pools()
        assert isinstance(pool, StoragePool)
        assert pool == await connection.storage_pool("default-pool") == await connection.storage_pool(pool.uuid)
        info = await pool.info()
        assert (info.state, info.capacity) == (2, 100 * 2**30)
        assert await pool.is_active()
        assert await pool.is_persistent()
        await pool.refresh()
        volume = await pool.create_volume(VOLUME_XML.format("v1"))
        assert await pool.volume_count() == 1
        assert [found.name for found in await pool.volumes()] == ["v1"]
        assert volume == await connection.volume(key=volume.key) == await connection.volume(path=await volume.path())
        assert (await volume.info()).capacity == 1048576
        assert (await volume.pool()) == pool
        copy = await pool.clone_volume(VOLUME_XML.format("v2"), volume)
        assert "<name>v2</name>" in await copy.xml()
        await copy.delete()
        assert await pool.volume("v1") == volume
        with pytest.raises(RemoteError) as caught:
            await pool.volume("v2")
        assert caught.value.code == ErrorCode.NO_STORAGE_VOL

    run(uri, work)


def test_the_host(uri: str) -> None:
    async def work(connection: Connection) -> None:
        node = connection.node
        info = await node.info()
        told = dict(re.split(r":\s+", line, maxsplit=1) for line in virsh(uri, "nodeinfo").splitlines())
        assert told["CPU model"] == info.model
        assert told["CPU(s)"] == str(info.cpus)
        assert told["Memory size"] == f"{info.memory} KiB"
        cpus = await node.cpu_map()
        assert cpus.present == len(cpus.online) == 8
        assert await node.free_memory() > 0
        assert len(await node.cells_free_memory()) == 2
        devices = {device.name: device for device in await node.devices()}
        assert "computer" in devices
        assert await devices["scsi_host2"].parent_name() == "computer"
        assert "scsi_host" in await devices["scsi_host2"].capabilities()
        assert "<name>computer</name>" in await (await node.device("computer")).xml()
        (interface,) = await node.interfaces()
        assert interface == await node.interface(interface.name) == await node.interface(mac=interface.mac)
        assert await interface.is_active()
        assert f"name='{interface.name}'" in await interface.xml()

    run(uri, work)


def test_a_screenshot_is_a_stream(uri: str) -> None:
    async def work(connection: Connection) -> None:
        mime, stream = await (await connection.domain("test")).screenshot()
        async with stream:
            picture = b"".join([piece async for piece in stream])
        assert mime == "image/png"
        assert picture.startswith(b"\x89PNG")
        assert picture.endswith(b"IEND\xaeB`\x82")
        for _ in range(50):
            _, stream = await (await connection.domain("test")).screenshot()
            assert await asyncio.wait_for(stream.receive(), 10) == picture
            await stream.abort()
        assert await connection.type() == "TEST"

    run(uri, work)


def test_errors_have_libvirts_numbers(uri: str) -> None:
    async def work(connection: Connection) -> None:
        domain = await connection.domain("test")
        for call, code in (
            (connection.define_domain("<domain"), ErrorCode.XML_DETAIL),
            (connection.domain("x"), ErrorCode.NO_DOMAIN),
            (connection.network("x"), ErrorCode.NO_NETWORK),
            (connection.storage_pool("x"), ErrorCode.NO_STORAGE_POOL),
            (domain.console(), ErrorCode.NO_SUPPORT),
        ):
            with pytest.raises(RemoteError) as caught:
                await call
            assert caught.value.code == code

    run(uri, work)


def test_many_calls_at_once(uri: str) -> None:
    async def work(connection: Connection) -> None:
        domain = await connection.domain("test")
        infos = await asyncio.gather(*(domain.info() for _ in range(200)))
        assert {info.max_memory for info in infos} == {8388608}

    run(uri, work)


def test_without_await(uri: str) -> None:
    with sync.connect(uri) as connection:
        domain = connection.domain("test")
        assert domain == connection.domains()[0]
        assert domain.state() == (1, 0)
        assert connection.domain_stats([domain]) == [(domain, {"state.state": 1, "state.reason": 0})]
        assert connection.node.info().cpus == 16
        with connection.events() as events:
            domain.suspend()
            assert events.next(5).subject.name == "test"
            with pytest.raises(TimeoutError):
                events.next(0.05)
        mime, stream = domain.screenshot()
        with stream:
            assert b"".join(stream).startswith(b"\x89PNG")
        assert mime == "image/png"
        pool = connection.storage_pool("default-pool")
        source = pool.create_volume(VOLUME_XML.format("v1"))
        assert pool.clone_volume(VOLUME_XML.format("v2"), source).name == "v2"
        with pytest.raises(RemoteError, match="Domain not found"):
            connection.domain("x")
    assert not connection.is_alive


def test_a_daemon_that_ends_is_noticed() -> None:
    with running_libvirtd() as path:
        connection = sync.connect(f"test+unix:///default?socket={path}")
        events = connection.events()
        events.start()
    with pytest.raises(HostError):
        events.next(10)
    with pytest.raises(HostError):
        connection.hostname()
    connection.close()


def test_a_socket_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="cannot connect to .*/none: No such file"):
        sync.connect(f"qemu+unix:///system?socket={tmp_path}/none")


_DOMAIN = records.Domain("test", TEST_UUID.bytes, 1)
_NETWORK = records.Network("default", bytes(16))
_VALUES: dict[str, Any] = {
    "int": 1, "uint": 0, "long": 1, "ulong": 0, "str": "x", "bytes": b"x", "uuid": bytes(16), "str[]": ["<cpu/>"],
    "Domain": _DOMAIN, "Network": _NETWORK, "NetworkPort": records.NetworkPort(_NETWORK, bytes(16)),
    "Interface": records.Interface("eth1", "0"), "StoragePool": records.StoragePool("default-pool", bytes(16)),
    "StorageVol": records.StorageVol("default-pool", "v", "v"), "NodeDevice": records.NodeDevice("computer"),
    "Secret": records.Secret(bytes(16), 0, ""), "Nwfilter": records.Nwfilter("f", bytes(16)),
    "NwfilterBinding": records.NwfilterBinding("a", "b"), "Snapshot": records.Snapshot("s", _DOMAIN),
    "Checkpoint": records.Checkpoint("s", _DOMAIN), "TypedParam[]": [("a", 1, 1)], "char[]": b"",
}  # fmt: skip
_NOT_CALLED = {
    "connect_open", "connect_close", "auth_sasl_init", "auth_sasl_start", "auth_sasl_step", "auth_polkit",
    "connect_set_identity",
    "domain_fd_associate", "domain_open_graphics",  # they look for file descriptors first
}  # fmt: skip


def _arguments(procedure: Procedure) -> list[Any]:
    found = []
    for name, kind in procedure.arguments:
        if kind.endswith("?"):
            found.append("n" if name == "new_name" else None)
        else:
            found.append(_VALUES.get(kind, []))
    return found


def test_layouts_and_permissions_are_those_of_libvirtd(uri: str) -> None:
    """Each procedure that it knows is called on a read-only connection: it must understand the arguments, answer what
    we can decode, and refuse exactly what the catalog says it refuses.
    """
    wrong = []

    async def work(connection: Connection, procedure: Procedure, arguments: list[Any]) -> None:
        code = 0
        try:
            await connection.call(procedure.name, *arguments)
        except RemoteError as error:
            code = error.code
            if "decode" in str(error) or "unknown procedure" in str(error):
                wrong.append(f"{procedure.name}: {error}")
        except ProtocolError as error:
            wrong.append(f"{procedure.name}: {error}")
        missing = procedure.missing_for_read_only(procedure.arguments_type(*arguments))
        if (code == ErrorCode.OPERATION_DENIED) != (missing is not None):
            wrong.append(f"{procedure.name} needs {missing}, and the answer was {code}")

    async def main() -> None:
        asked = 0
        for procedure in REMOTE.values():
            # 443 is the last procedure of libvirt 9.0.
            if procedure.is_event or procedure.name in _NOT_CALLED or procedure.number > 443:
                continue
            async with connect(uri, is_read_only=True) as connection:
                await asyncio.wait_for(work(connection, procedure, _arguments(procedure)), 10)
                asked += 1
        secret: list[tuple[str, list[Any]]] = [
            ("domain_get_xml_desc", [_DOMAIN, 1]),
            ("domain_snapshot_get_xml_desc", [_VALUES["Snapshot"], 1]),
            ("domain_checkpoint_get_xml_desc", [_VALUES["Checkpoint"], 1]),
            ("domain_managed_save_get_xml_desc", [_DOMAIN, 1]),
            ("domain_interface_addresses", [_DOMAIN, 1, 0]),
            ("domain_interface_addresses", [_DOMAIN, 0, 0]),
            ("domain_get_vcpus_flags", [_DOMAIN, 8]),
            ("domain_get_vcpus_flags", [_DOMAIN, 1]),
        ]
        for name, arguments in secret:
            async with connect(uri, is_read_only=True) as connection:
                await work(connection, REMOTE[name], arguments)
        assert asked > 360

    asyncio.run(main())
    assert not wrong


def test_every_object_of_the_client_is_a_domains_or_another_record(uri: str) -> None:
    """What the client calls is in the catalog, with as many arguments as it gives: the names are checked by source."""
    directory = Path(str(Connection.__init__.__code__.co_filename)).parent
    names = set()
    for path in directory.glob("*.py"):
        names |= set(re.findall(r'"((?:qemu_)?(?:connect|node|domain|network|storage|secret|nwfilter|interface)_\w+)"',
                                path.read_text("utf-8")))  # fmt: skip
    from manor.rpc.protocol.catalog import QEMU

    unknown = {name for name in names if name not in REMOTE and name not in QEMU} - {"storage_pool", "node_device"}
    assert not unknown
    assert len(names) > 250
