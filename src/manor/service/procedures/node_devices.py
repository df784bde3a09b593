"""Devices of the host: looked at; to give them to guests, or to make some, is refused (service.refusals)."""

from __future__ import annotations

from typing import Any, Final, NoReturn

from manor.base.errors import ApiError
from manor.drivers.api import HostDevice
from manor.drivers.errors import Code, Origin
from manor.drivers.host_devices import device_xml
from manor.rpc.protocol.records import NodeDevice
from manor.service.client import Client, cut

_KINDS: Final = {
    "system": 1, "pci": 2, "usb_device": 4, "usb": 8, "net": 16, "scsi_host": 32, "scsi_target": 64, "scsi": 128,
    "storage": 256,
}  # fmt: skip
_INACTIVE, _ACTIVE = 1 << 30, 1 << 31
"""virConnectListAllNodeDeviceFlags."""


def _found(client: Client, kind: str | None) -> list[str]:
    return [each.name for each in client.driver.node.devices() if kind is None or kind in each.kinds]


def _get(client: Client, name: str) -> HostDevice:
    for each in client.driver.node.devices():
        if each.name == name:
            return each
    raise _missing(f"with matching name '{name}'")


def _missing(what: str) -> ApiError:
    return ApiError(Code.NO_NODE_DEVICE, Origin.NODEDEV, f"Node device not found: no node device {what}")


def connect_list_all_node_devices(client: Client, a: Any) -> tuple[list[NodeDevice], int]:
    flags = a.flags & 0xFFFFFFFF
    kinds = flags & ~(_INACTIVE | _ACTIVE)
    wants_these = not flags & (_INACTIVE | _ACTIVE) or bool(flags & _ACTIVE)
    found = [
        NodeDevice(each.name)
        for each in client.driver.node.devices()
        if wants_these and (not kinds or any(_KINDS.get(kind, 0) & kinds for kind in each.kinds))
    ]
    return (found if a.need_results else [], len(found))


def node_num_of_devices(client: Client, a: Any) -> int:
    return len(_found(client, a.cap))


def node_list_devices(client: Client, a: Any) -> list[str]:
    return cut(_found(client, a.cap), a.max_names)


def node_device_lookup_by_name(client: Client, a: Any) -> NodeDevice:
    return NodeDevice(_get(client, a.name).name)


def node_device_lookup_scsi_host_by_wwn(client: Client, a: Any) -> NoReturn:
    raise _missing(f"with matching wwnn '{a.wwnn}' and wwpn '{a.wwpn}'")


def node_device_get_xml_desc(client: Client, a: Any) -> str:
    return device_xml(_get(client, a.name))


def node_device_get_parent(client: Client, a: Any) -> str | None:
    return _get(client, a.name).parent


def node_device_num_of_caps(client: Client, a: Any) -> int:
    return len(_get(client, a.name).kinds)


def node_device_list_caps(client: Client, a: Any) -> list[str]:
    return cut(list(_get(client, a.name).kinds), a.max_names)


def node_device_is_active(client: Client, a: Any) -> int:
    return int(_get(client, a.name) is not None)


def node_device_is_persistent(client: Client, a: Any) -> int:
    return int(_get(client, a.name) is not None)  # hardware: it comes back with the host


def node_device_get_autostart(client: Client, a: Any) -> int:
    return int(_get(client, a.name) is not None)
