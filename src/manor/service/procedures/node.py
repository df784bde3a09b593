"""The host."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any, Final
from xml.sax.saxutils import escape

from manor.base.errors import ApiError
from manor.drivers.errors import Code, Origin, failed, unsupported
from manor.rpc.protocol.records import Interface, NodeStat, ParamType, TypedParam
from manor.service.client import Client, cut
from manor.service.procedures.parameters import answer

_KSM_SETTINGS: Final = ("shm_pages_to_scan", "shm_sleep_millisecs", "shm_merge_across_nodes")
_NET: Final = Path("/sys/class/net")
_QUOTES: Final = {"'": "&apos;"}


def node_get_info(client: Client, a: Any) -> tuple[str, int, int, int, int, int, int, int]:
    info = client.driver.node.info()
    return (info.model, info.memory, info.cpus, info.mhz, info.nodes, info.sockets, info.cores, info.threads)


def node_get_free_memory(client: Client, a: Any) -> int:
    return client.driver.node.free_memory()


def node_get_cells_free_memory(client: Client, a: Any) -> list[int]:
    return [client.driver.node.free_memory()] if a.start_cell <= 0 < a.max_cells else []


def node_get_security_model(client: Client, a: Any) -> tuple[str, str]:
    return "none", "0"


def node_get_cpu_stats(client: Client, a: Any) -> tuple[list[NodeStat], int]:
    rows = [NodeStat(*row) for row in client.driver.node.cpu_statistics(a.cpu_num)]
    return (rows[: a.nparams], len(rows))


def node_get_memory_stats(client: Client, a: Any) -> tuple[list[NodeStat], int]:
    rows = [NodeStat(*row) for row in client.driver.node.memory_statistics()]
    return (rows[: a.nparams], len(rows))


def node_get_cpu_map(client: Client, a: Any) -> tuple[bytes, int, int]:
    cpus = client.driver.node.info().cpus
    bits = ((1 << cpus) - 1).to_bytes((cpus + 7) // 8, "little")
    return bits if a.need_map else b"", cpus if a.need_online else 0, cpus


def node_get_free_pages(client: Client, a: Any) -> list[int]:
    """Counts of one cell after the other: the host is shown as one."""
    if a.start_cell > 0 or a.start_cell < -1:
        raise failed(f"start cell {a.start_cell} out of range (0-0)", Origin.NONE)
    return [client.driver.node.free_pages(size) for size in a.pages]


def node_get_memory_parameters(client: Client, a: Any) -> tuple[list[TypedParam], int]:
    found = client.driver.node.merging()
    if not found:
        raise unsupported("the host's kernel has no merging of same pages", Origin.NONE)
    kinds = dict.fromkeys(_KSM_SETTINGS, ParamType.UINT)
    rows = [TypedParam(name, int(kinds.get(name, ParamType.ULLONG)), value) for name, value in found.items()]
    return answer(rows, a.nparams)


# --- network interfaces -----------------------------------------------------------------------------------------------


def _interfaces() -> list[tuple[Interface, bool]]:
    found = []
    for _, name in sorted(socket.if_nameindex(), key=lambda each: each[1]):
        try:
            mac = (_NET / name / "address").read_text().strip()
            is_up = bool(int((_NET / name / "flags").read_text(), 16) & 1)
        except (OSError, ValueError):
            continue
        found.append((Interface(name, mac), is_up))
    return found


def _interface(name: str) -> tuple[Interface, bool]:
    for each in _interfaces():
        if each[0].name == name:
            return each
    raise ApiError(Code.NO_INTERFACE, Origin.INTERFACE, f"Interface not found: couldn't find interface named '{name}'")


def connect_list_all_interfaces(client: Client, a: Any) -> tuple[list[Interface], int]:
    found = [each for each, is_up in _interfaces() if not a.flags & 3 or a.flags & (2 if is_up else 1)]
    return (found if a.need_results else [], len(found))


def connect_num_of_interfaces(client: Client, a: Any) -> int:
    return sum(is_up for _, is_up in _interfaces())


def connect_list_interfaces(client: Client, a: Any) -> list[str]:
    return cut([each.name for each, is_up in _interfaces() if is_up], a.max_names)


def connect_num_of_defined_interfaces(client: Client, a: Any) -> int:
    return sum(not is_up for _, is_up in _interfaces())


def connect_list_defined_interfaces(client: Client, a: Any) -> list[str]:
    return cut([each.name for each, is_up in _interfaces() if not is_up], a.max_names)


def interface_lookup_by_name(client: Client, a: Any) -> Interface:
    return _interface(a.name)[0]


def interface_lookup_by_mac_string(client: Client, a: Any) -> Interface:
    for each, _ in _interfaces():
        if each.mac == a.mac.lower():
            return each
    raise ApiError(Code.NO_INTERFACE, Origin.INTERFACE, f"Interface not found: no interface with MAC '{a.mac}'")


def interface_is_active(client: Client, a: Any) -> int:
    return int(_interface(a.interface.name)[1])


def interface_get_xml_desc(client: Client, a: Any) -> str:
    found, _ = _interface(a.interface.name)
    kind = "bridge" if (_NET / found.name / "bridge").is_dir() else "ethernet"
    inner = "  <bridge/>\n" if kind == "bridge" else ""
    return (
        f"<interface type='{kind}' name='{escape(found.name, _QUOTES)}'>\n"
        f"  <mac address='{escape(found.mac, _QUOTES)}'/>\n"
        f"{inner}</interface>\n"
    )
