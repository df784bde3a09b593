"""The host: its size and load, its devices and network interfaces."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from manor.client.handle import Handle
from manor.client.params import Params, Value, from_params, to_params
from manor.client.results import CpuMap, NodeInfo, SecurityModel, cpu_bits
from manor.rpc.protocol import records

if TYPE_CHECKING:
    from manor.client.connection import Connection


class Node:
    """The host of a connection."""

    __slots__ = ("connection",)

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    async def info(self) -> NodeInfo:
        """Size and topology."""
        return NodeInfo(*await self.connection.call("node_get_info"))

    async def free_memory(self) -> int:
        """Bytes."""
        size: int = await self.connection.call("node_get_free_memory")
        return size

    async def cells_free_memory(self, first: int = 0, count: int = 1024) -> list[int]:
        """Bytes of each NUMA node."""
        sizes: list[int] = await self.connection.call("node_get_cells_free_memory", first, count)
        return sizes

    async def free_pages(self, pages: Sequence[int], first: int, count: int, flags: int = 0) -> list[int]:
        """Free pages of each size (KiB) on each of `count` NUMA nodes, node by node."""
        counts: list[int] = await self.connection.call("node_get_free_pages", list(pages), first, count, flags)
        return counts

    async def allocate_pages(
        self, sizes: Sequence[int], counts: Sequence[int], first: int, cells: int, flags: int = 0
    ) -> int:
        """Reserve huge pages; how many nodes could. flags: 1 set instead of add."""
        done: int = await self.connection.call("node_alloc_pages", list(sizes), list(counts), first, cells, flags)
        return done

    async def cpu_stats(self, cpu: int = -1, flags: int = 0) -> dict[str, int]:
        """CPU times, ns; of all CPUs with -1."""
        _, count = await self.connection.call("node_get_cpu_stats", cpu, 0, flags)
        stats, _ = await self.connection.call("node_get_cpu_stats", cpu, count, flags)
        return {stat.field: stat.value for stat in stats}

    async def memory_stats(self, cell: int = -1, flags: int = 0) -> dict[str, int]:
        """KiB; of the whole host with -1."""
        _, count = await self.connection.call("node_get_memory_stats", 0, cell, flags)
        stats, _ = await self.connection.call("node_get_memory_stats", count, cell, flags)
        return {stat.field: stat.value for stat in stats}

    async def memory_params(self, flags: int = 0) -> dict[str, Value]:
        """How pages are shared between guests."""
        _, count = await self.connection.call("node_get_memory_parameters", 0, flags)
        params, _ = await self.connection.call("node_get_memory_parameters", count, flags)
        return from_params(params)

    async def set_memory_params(self, params: Params, flags: int = 0) -> None:
        """The inverse."""
        await self.connection.call("node_set_memory_parameters", to_params(params), flags)

    async def cpu_map(self, flags: int = 0) -> CpuMap:
        """CPUs that are there and online."""
        bits, _, present = await self.connection.call("node_get_cpu_map", 1, 1, flags)
        return CpuMap(present, cpu_bits(bits, present))

    async def security_model(self) -> SecurityModel:
        """How VMs are confined."""
        return SecurityModel(*await self.connection.call("node_get_security_model"))

    async def sev_info(self, flags: int = 0) -> dict[str, Value]:
        """What AMD's encryption of guests needs."""
        _, count = await self.connection.call("node_get_sev_info", 0, flags)
        params, _ = await self.connection.call("node_get_sev_info", count, flags)
        return from_params(params)

    async def suspend(self, target: int, duration: int, flags: int = 0) -> None:
        """Suspend the host. target: 0 memory, 1 disk, 2 both; duration: s, at least 60."""
        await self.connection.call("node_suspend_for_duration", target, duration, flags)

    async def devices(self, flags: int = 0) -> list[NodeDevice]:
        """Its devices."""
        found, _ = await self.connection.call("connect_list_all_node_devices", 1, flags)
        return [NodeDevice(self.connection, record) for record in found]

    async def device(self, name: str) -> NodeDevice:
        """The device of that name."""
        return NodeDevice(self.connection, await self.connection.call("node_device_lookup_by_name", name))

    async def scsi_host(self, wwnn: str, wwpn: str, flags: int = 0) -> NodeDevice:
        """The SCSI host of these world wide names."""
        record = await self.connection.call("node_device_lookup_scsi_host_by_wwn", wwnn, wwpn, flags)
        return NodeDevice(self.connection, record)

    async def create_device(self, xml: str, flags: int = 0) -> NodeDevice:
        """Make a device that is gone when the host restarts."""
        return NodeDevice(self.connection, await self.connection.call("node_device_create_xml", xml, flags))

    async def define_device(self, xml: str, flags: int = 0) -> NodeDevice:
        """Define a device."""
        return NodeDevice(self.connection, await self.connection.call("node_device_define_xml", xml, flags))

    async def interfaces(self, flags: int = 0) -> list[Interface]:
        """Its network interfaces. flags: 1 inactive, 2 active ones."""
        found, _ = await self.connection.call("connect_list_all_interfaces", 1, flags)
        return [Interface(self.connection, record) for record in found]

    async def interface(self, name: str | None = None, *, mac: str | None = None) -> Interface:
        """The interface of that name or MAC."""
        if name is not None:
            return Interface(self.connection, await self.connection.call("interface_lookup_by_name", name))
        return Interface(self.connection, await self.connection.call("interface_lookup_by_mac_string", mac))

    async def define_interface(self, xml: str, flags: int = 0) -> Interface:
        """Define an interface."""
        return Interface(self.connection, await self.connection.call("interface_define_xml", xml, flags))

    async def begin_interface_change(self, flags: int = 0) -> None:
        """From here on changes of interfaces can be undone."""
        await self.connection.call("interface_change_begin", flags)

    async def commit_interface_change(self, flags: int = 0) -> None:
        """Keep the changes."""
        await self.connection.call("interface_change_commit", flags)

    async def rollback_interface_change(self, flags: int = 0) -> None:
        """Undo the changes."""
        await self.connection.call("interface_change_rollback", flags)


class NodeDevice(Handle[records.NodeDevice]):
    """A device of the host."""

    __slots__ = ()

    @property
    def name(self) -> str:
        """Its name."""
        return self.record.name

    async def _by_name(self, procedure: str, *arguments: object) -> object:
        return await self.connection.call(procedure, self.record.name, *arguments)

    async def xml(self, flags: int = 0) -> str:
        """Its description."""
        return str(await self._by_name("node_device_get_xml_desc", flags))

    async def parent_name(self) -> str | None:
        """The device that it hangs on."""
        name = await self._by_name("node_device_get_parent")
        return None if name is None else str(name)

    async def capabilities(self) -> list[str]:
        """What kinds of device it is."""
        count = await self._by_name("node_device_num_of_caps")
        names: list[str] = await self.connection.call("node_device_list_caps", self.record.name, count)
        return names

    async def detach(self, driver: str | None = None, flags: int = 0) -> None:
        """Take it from the host, to give it to a guest."""
        if driver is None and not flags:
            await self._by_name("node_device_dettach")
        else:
            await self._by_name("node_device_detach_flags", driver, flags)

    async def reattach(self) -> None:
        """Give it back to the host."""
        await self._by_name("node_device_re_attach")

    async def reset(self) -> None:
        """Reset it."""
        await self._by_name("node_device_reset")

    async def destroy(self) -> None:
        """Remove a device that was made."""
        await self._by_name("node_device_destroy")

    async def create(self, flags: int = 0) -> None:
        """Start a defined device."""
        await self._by_name("node_device_create", flags)

    async def undefine(self, flags: int = 0) -> None:
        """Forget its definition."""
        await self._by_name("node_device_undefine", flags)

    async def update(self, xml: str, flags: int = 0) -> None:
        """Change its definition."""
        await self._by_name("node_device_update", xml, flags)

    async def autostart(self) -> bool:
        """Whether it starts with the host."""
        return bool(await self._by_name("node_device_get_autostart"))

    async def set_autostart(self, wanted: bool) -> None:
        """Start it with the host, or no longer."""
        await self._by_name("node_device_set_autostart", int(wanted))

    async def is_active(self) -> bool:
        """Whether it is there."""
        return bool(await self._by_name("node_device_is_active"))

    async def is_persistent(self) -> bool:
        """Whether it has a definition."""
        return bool(await self._by_name("node_device_is_persistent"))


class Interface(Handle[records.Interface]):
    """A network interface of the host."""

    __slots__ = ()

    @property
    def name(self) -> str:
        """Its name."""
        return self.record.name

    @property
    def mac(self) -> str:
        """Its MAC."""
        return self.record.mac

    async def xml(self, flags: int = 0) -> str:
        """Its description. flags: 1 the inactive one."""
        xml: str = await self._call("interface_get_xml_desc", flags)
        return xml

    async def create(self, flags: int = 0) -> None:
        """Bring it up."""
        await self._call("interface_create", flags)

    async def destroy(self, flags: int = 0) -> None:
        """Bring it down."""
        await self._call("interface_destroy", flags)

    async def undefine(self) -> None:
        """Forget its definition."""
        await self._call("interface_undefine")

    async def is_active(self) -> bool:
        """Whether it is up."""
        return bool(await self._call("interface_is_active"))
