"""A connection to a daemon, and how to make one: `async with connect("qemu:///system") as connection: ...`."""

from __future__ import annotations

import os
import uuid
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

from manor.base.errors import HostError
from manor.client.domain import Domain
from manor.client.events import Dispatcher, Events, kind_of
from manor.client.handle import Handle
from manor.client.network import Network
from manor.client.node import Node
from manor.client.params import Params, Value, from_params, to_params
from manor.client.secret import Nwfilter, NwfilterBinding, Secret
from manor.client.services import Services
from manor.client.storage import StoragePool, Volume
from manor.client.stream import Stream
from manor.rpc.caller import Caller, RemoteError
from manor.rpc.opening import open_caller
from manor.rpc.protocol.catalog import MANOR, QEMU, REMOTE, Procedure
from manor.rpc.uri import Uri, default_uri, parse_uri


class Connection:
    """A connection. Close it with `close`, or use `connect`, which does."""

    def __init__(self, caller: Caller, uri: Uri, dispatcher: Dispatcher) -> None:
        self._caller = caller
        self._uri = uri
        self.dispatcher = dispatcher
        self.node = Node(self)
        """The host that the daemon is on."""
        self.services = Services(self)
        """What manord gives beyond libvirt."""

    async def close(self) -> None:
        """Say goodbye, if the daemon still listens, and close."""
        if self._caller.is_open:
            with suppress(RemoteError, HostError):
                await self.call("connect_close")
        self.dispatcher.end(None)
        await self._caller.close()

    # The wire, for what has no method.

    async def call(self, procedure: str, *arguments: Any, files: tuple[int, ...] = ()) -> Any:
        """Call any procedure of `manor.rpc.protocol.catalog`. Raises RemoteError, HostError, ProtocolError.

        files: descriptors to pass, which are closed once sent.
        """
        return await self._caller.call(_procedure(procedure), *arguments, files=files)

    async def call_for_file(self, procedure: str, *arguments: Any) -> int:
        """Call a procedure that answers with one descriptor."""
        if not self._caller.can_pass_files:
            raise HostError("file descriptors can be passed over unix sockets only")
        _, files = await self._caller.call_for_files(_procedure(procedure), *arguments)
        for file in files[1:]:
            os.close(file)
        if not files:
            raise HostError(f"{procedure}: the daemon sent no file descriptor")
        return files[0]

    async def open_stream(self, procedure: str, *arguments: Any) -> tuple[Any, Stream]:
        """Call a procedure that opens a stream."""
        return await self._caller.open_stream(_procedure(procedure), *arguments)

    @property
    def is_alive(self) -> bool:
        """Whether calls can be made."""
        return self._caller.is_open

    async def wait_closed(self) -> None:
        """Wait until the connection is over."""
        await self._caller.closed

    # The daemon.

    async def uri(self) -> str:
        """The URI as the daemon knows it."""
        return str(await self.call("connect_get_uri"))

    async def hostname(self) -> str:
        """The daemon's host."""
        return str(await self.call("connect_get_hostname"))

    async def type(self) -> str:
        """The driver, for example `QEMU`."""
        return str(await self.call("connect_get_type"))

    async def version(self) -> int:
        """The hypervisor's version: major * 1000000 + minor * 1000 + release."""
        number: int = await self.call("connect_get_version")
        return number

    async def lib_version(self) -> int:
        """The daemon's version, in the same form."""
        number: int = await self.call("connect_get_lib_version")
        return number

    async def is_secure(self) -> bool:
        """Whether nobody on the way can listen."""
        return bool(await self.call("connect_is_secure"))

    async def supports_feature(self, feature: int) -> bool:
        """libvirt's virDrvFeature."""
        return bool(await self.call("connect_supports_feature", feature))

    async def capabilities(self) -> str:
        """XML: the host and what guests it can run."""
        return str(await self.call("connect_get_capabilities"))

    async def domain_capabilities(
        self,
        emulator: str | None = None,
        arch: str | None = None,
        machine: str | None = None,
        virt_type: str | None = None,
        flags: int = 0,
    ) -> str:
        """XML: what a domain of this kind can have."""
        return str(await self.call("connect_get_domain_capabilities", emulator, arch, machine, virt_type, flags))

    async def storage_pool_capabilities(self, flags: int = 0) -> str:
        """XML: what kinds of pool there are."""
        return str(await self.call("connect_get_storage_pool_capabilities", flags))

    async def sysinfo(self, flags: int = 0) -> str:
        """XML: the host's SMBIOS tables."""
        return str(await self.call("connect_get_sysinfo", flags))

    async def max_vcpus(self, virt_type: str | None = None) -> int:
        """How many vCPUs a domain can have."""
        count: int = await self.call("connect_get_max_vcpus", virt_type)
        return count

    async def cpu_models(self, arch: str, flags: int = 0) -> list[str]:
        """Names of CPU models."""
        models, _ = await self.call("connect_get_cpu_model_names", arch, 1, flags)
        return list(models)

    async def compare_cpu(self, xml: str, flags: int = 0) -> int:
        """The host's CPU against `xml`: 0 incompatible, 1 the same, 2 more than that."""
        result: int = await self.call("connect_compare_cpu", xml, flags)
        return result

    async def baseline_cpu(self, xmls: Sequence[str], flags: int = 0) -> str:
        """XML: the CPU that all of these are at least."""
        return str(await self.call("connect_baseline_cpu", list(xmls), flags))

    async def compare_hypervisor_cpu(
        self,
        xml: str,
        emulator: str | None = None,
        arch: str | None = None,
        machine: str | None = None,
        virt_type: str | None = None,
        flags: int = 0,
    ) -> int:
        """As `compare_cpu`, with what the hypervisor can give a guest."""
        result: int = await self.call(
            "connect_compare_hypervisor_cpu", emulator, arch, machine, virt_type, xml, flags
        )
        return result

    async def baseline_hypervisor_cpu(
        self,
        xmls: Sequence[str],
        emulator: str | None = None,
        arch: str | None = None,
        machine: str | None = None,
        virt_type: str | None = None,
        flags: int = 0,
    ) -> str:
        """As `baseline_cpu`, with what the hypervisor can give a guest."""
        return str(
            await self.call(
                "connect_baseline_hypervisor_cpu", emulator, arch, machine, virt_type, list(xmls), flags
            )
        )

    async def domain_xml_from_native(self, form: str, config: str, flags: int = 0) -> str:
        """A hypervisor's own configuration as a domain's XML."""
        return str(await self.call("connect_domain_xml_from_native", form, config, flags))

    async def domain_xml_to_native(self, form: str, xml: str, flags: int = 0) -> str:
        """The inverse."""
        return str(await self.call("connect_domain_xml_to_native", form, xml, flags))

    # Domains.

    async def domains(self, flags: int = 0) -> list[Domain]:
        """Domains. flags: 1 active, 2 inactive ones, and more of virConnectListAllDomainsFlags."""
        found, _ = await self.call("connect_list_all_domains", 1, flags)
        return [Domain(self, record) for record in found]

    async def domain_count(self, flags: int = 0) -> int:
        """How many `domains` would give."""
        _, count = await self.call("connect_list_all_domains", 0, flags)
        return int(count)

    async def domain(self, which: str | int | uuid.UUID) -> Domain:
        """The domain of that name, id or UUID."""
        if isinstance(which, int):
            return Domain(self, await self.call("domain_lookup_by_id", which))
        if isinstance(which, uuid.UUID):
            return Domain(self, await self.call("domain_lookup_by_uuid", which.bytes))
        return Domain(self, await self.call("domain_lookup_by_name", which))

    async def define_domain(self, xml: str, flags: int = 0) -> Domain:
        """Define a domain, or change its definition."""
        if flags:
            return Domain(self, await self.call("domain_define_xml_flags", xml, flags))
        return Domain(self, await self.call("domain_define_xml", xml))

    async def create_domain(self, xml: str, flags: int = 0, files: tuple[int, ...] = ()) -> Domain:
        """Start a domain that has no definition. files: descriptors for it, closed here once sent."""
        if files:
            return Domain(self, await self.call("domain_create_xml_with_files", xml, flags, files=files))
        return Domain(self, await self.call("domain_create_xml", xml, flags))

    async def restore_domain(self, path: str, xml: str | None = None, flags: int = 0) -> None:
        """Start a domain from what `Domain.save` wrote."""
        if xml is None and not flags:
            await self.call("domain_restore", path)
        else:
            await self.call("domain_restore_flags", path, xml, flags)

    async def restore_domain_params(self, params: Params, flags: int = 0) -> None:
        """As `restore_domain`, with parameters: `file`, `dxml`."""
        await self.call("domain_restore_params", to_params(params), flags)

    async def saved_xml(self, path: str, flags: int = 0) -> str:
        """The description in a saved domain."""
        return str(await self.call("domain_save_image_get_xml_desc", path, flags))

    async def define_saved_xml(self, path: str, xml: str, flags: int = 0) -> None:
        """Change the description in a saved domain."""
        await self.call("domain_save_image_define_xml", path, xml, flags)

    async def domain_stats(
        self, domains: Iterable[Domain] = (), stats: int = 0, flags: int = 0
    ) -> list[tuple[Domain, dict[str, Value]]]:
        """Statistics of these domains, or of all. stats: groups of virDomainStatsTypes, 0 is all."""
        asked = [domain.record for domain in domains]
        found = await self.call("connect_get_all_domain_stats", asked, stats, flags)
        return [(Domain(self, record), from_params(params)) for record, params in found]

    # Networks.

    async def networks(self, flags: int = 0) -> list[Network]:
        """Networks. flags: 1 inactive, 2 active ones."""
        found, _ = await self.call("connect_list_all_networks", 1, flags)
        return [Network(self, record) for record in found]

    async def network(self, which: str | uuid.UUID) -> Network:
        """The network of that name or UUID."""
        if isinstance(which, uuid.UUID):
            return Network(self, await self.call("network_lookup_by_uuid", which.bytes))
        return Network(self, await self.call("network_lookup_by_name", which))

    async def define_network(self, xml: str, flags: int = 0) -> Network:
        """Define a network."""
        if flags:
            return Network(self, await self.call("network_define_xml_flags", xml, flags))
        return Network(self, await self.call("network_define_xml", xml))

    async def create_network(self, xml: str, flags: int = 0) -> Network:
        """Start a network that has no definition."""
        if flags:
            return Network(self, await self.call("network_create_xml_flags", xml, flags))
        return Network(self, await self.call("network_create_xml", xml))

    # Storage.

    async def storage_pools(self, flags: int = 0) -> list[StoragePool]:
        """Pools. flags: 1 inactive, 2 active ones, and more."""
        found, _ = await self.call("connect_list_all_storage_pools", 1, flags)
        return [StoragePool(self, record) for record in found]

    async def storage_pool(self, which: str | uuid.UUID | None = None, *, target: str | None = None) -> StoragePool:
        """The pool of that name, UUID or target path."""
        if target is not None:
            return StoragePool(self, await self.call("storage_pool_lookup_by_target_path", target))
        if isinstance(which, uuid.UUID):
            return StoragePool(self, await self.call("storage_pool_lookup_by_uuid", which.bytes))
        return StoragePool(self, await self.call("storage_pool_lookup_by_name", which))

    async def define_storage_pool(self, xml: str, flags: int = 0) -> StoragePool:
        """Define a pool."""
        return StoragePool(self, await self.call("storage_pool_define_xml", xml, flags))

    async def create_storage_pool(self, xml: str, flags: int = 0) -> StoragePool:
        """Start a pool that has no definition."""
        return StoragePool(self, await self.call("storage_pool_create_xml", xml, flags))

    async def find_storage_pool_sources(self, kind: str, xml: str | None = None, flags: int = 0) -> str:
        """XML: what pools of that kind could be made of."""
        return str(await self.call("connect_find_storage_pool_sources", kind, xml, flags))

    async def volume(self, *, key: str | None = None, path: str | None = None) -> Volume:
        """The volume of that key or path. By name: `StoragePool.volume`."""
        if path is not None:
            return Volume(self, await self.call("storage_vol_lookup_by_path", path))
        return Volume(self, await self.call("storage_vol_lookup_by_key", key))

    # Secrets, network filters.

    async def secrets(self, flags: int = 0) -> list[Secret]:
        """Secrets."""
        found, _ = await self.call("connect_list_all_secrets", 1, flags)
        return [Secret(self, record) for record in found]

    async def secret(self, which: uuid.UUID | None = None, *, usage: tuple[int, str] | None = None) -> Secret:
        """The secret of that UUID, or (type, id) of its use."""
        if usage is not None:
            return Secret(self, await self.call("secret_lookup_by_usage", *usage))
        return Secret(self, await self.call("secret_lookup_by_uuid", which.bytes if which else b""))

    async def define_secret(self, xml: str, flags: int = 0) -> Secret:
        """Define a secret."""
        return Secret(self, await self.call("secret_define_xml", xml, flags))

    async def nwfilters(self, flags: int = 0) -> list[Nwfilter]:
        """Network filters."""
        found, _ = await self.call("connect_list_all_nwfilters", 1, flags)
        return [Nwfilter(self, record) for record in found]

    async def nwfilter(self, which: str | uuid.UUID) -> Nwfilter:
        """The filter of that name or UUID."""
        if isinstance(which, uuid.UUID):
            return Nwfilter(self, await self.call("nwfilter_lookup_by_uuid", which.bytes))
        return Nwfilter(self, await self.call("nwfilter_lookup_by_name", which))

    async def define_nwfilter(self, xml: str, flags: int = 0) -> Nwfilter:
        """Define a filter."""
        if flags:
            return Nwfilter(self, await self.call("nwfilter_define_xml_flags", xml, flags))
        return Nwfilter(self, await self.call("nwfilter_define_xml", xml))

    async def nwfilter_bindings(self, flags: int = 0) -> list[NwfilterBinding]:
        """Filters in use."""
        found, _ = await self.call("connect_list_all_nwfilter_bindings", 1, flags)
        return [NwfilterBinding(self, record) for record in found]

    async def nwfilter_binding(self, port_device: str) -> NwfilterBinding:
        """The filter in use at a port."""
        return NwfilterBinding(self, await self.call("nwfilter_binding_lookup_by_port_dev", port_device))

    async def create_nwfilter_binding(self, xml: str, flags: int = 0) -> NwfilterBinding:
        """Use a filter at a port."""
        return NwfilterBinding(self, await self.call("nwfilter_binding_create_xml", xml, flags))

    # Events.

    def events(self, kind: str = "lifecycle", *, of: Handle[Any] | str = "domain") -> Events:
        """A subscription: to all domains' events of a kind, or of one object, or of another sort of objects.

        kind: a name of `manor.rpc.protocol.events`; of: an object, or `domain`, `network`, `storage_pool`,
        `node_device`, `secret`.
        """
        if isinstance(of, str):
            return Events(self, kind_of(of, kind), None)
        return Events(self, kind_of(_OBJECTS[type(of.record).__name__], kind), of.record)


_OBJECTS = {
    "Domain": "domain",
    "Network": "network",
    "StoragePool": "storage_pool",
    "NodeDevice": "node_device",
    "Secret": "secret",
}


def _procedure(name: str) -> Procedure:
    for program in (REMOTE, QEMU):
        if name in program:
            return program[name]
    return MANOR[name]


async def open_connection(
    uri: str | None = None, *, is_read_only: bool = False, keepalive: tuple[float, int] | None = None
) -> Connection:
    """Connect. Raises HostError, ConfigError, RemoteError; use `connect` for one that closes itself.

    uri: as libvirt's, default `$LIBVIRT_DEFAULT_URI` or manord's. keepalive: (seconds, questions) after which a daemon
    that does not answer is given up; default 5 s and 5, (0, 0) never. For `manor:///session` a daemon is started if
    there is none, which ends some time after its last client and VM; $MANOR_AUTOSTART=0 forbids it.
    """
    parsed = parse_uri(uri or default_uri())
    dispatcher = Dispatcher()
    caller = await _open(parsed, dispatcher, is_read_only, keepalive)
    caller.closed.add_done_callback(lambda future: dispatcher.end(future.result()))
    return Connection(caller, parsed, dispatcher)


async def _open(
    uri: Uri, dispatcher: Dispatcher, is_read_only: bool, keepalive: tuple[float, int] | None
) -> Caller:
    """As `open_caller`; a user's own daemon is started if there is none."""
    try:
        return await open_caller(uri, dispatcher.accept, is_read_only=is_read_only, keepalive=keepalive)
    except RemoteError:
        raise
    except HostError as error:
        from manor.client.ondemand import ensure_daemon, is_wanted

        if not is_wanted(uri):
            if uri.is_own and not uri.is_session and uri.effective_transport == "unix":
                raise HostError(
                    f"{error}; start the host's daemon: `systemctl start manord.socket`, or `manord --system` as root",
                    error.errno, error.file,
                ) from error  # fmt: skip
            raise
        # There is none, or the one that was there has just ended for want of clients.
        await ensure_daemon(uri)
        return await open_caller(uri, dispatcher.accept, is_read_only=is_read_only, keepalive=keepalive)


@asynccontextmanager
async def connect(
    uri: str | None = None, *, is_read_only: bool = False, keepalive: tuple[float, int] | None = None
) -> AsyncIterator[Connection]:
    """`open_connection` as a context: the connection is closed at its end."""
    connection = await open_connection(uri, is_read_only=is_read_only, keepalive=keepalive)
    try:
        yield connection
    finally:
        await connection.close()
