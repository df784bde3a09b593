"""Kinds of objects that no driver has: lists of them are empty, and none is found."""

from __future__ import annotations

from typing import Any, NoReturn

from manor.base.errors import ApiError
from manor.drivers.errors import Code, Origin
from manor.service.client import Client


def _nothing(client: Client, a: Any) -> tuple[list[Any], int]:
    return [], 0


def connect_list_all_node_devices(client: Client, a: Any) -> tuple[list[Any], int]:
    return _nothing(client, a)


def connect_list_all_nwfilters(client: Client, a: Any) -> tuple[list[Any], int]:
    return _nothing(client, a)


def connect_list_all_nwfilter_bindings(client: Client, a: Any) -> tuple[list[Any], int]:
    return _nothing(client, a)


def connect_list_all_secrets(client: Client, a: Any) -> tuple[list[Any], int]:
    return _nothing(client, a)


def domain_list_all_checkpoints(client: Client, a: Any) -> tuple[list[Any], int]:
    return _nothing(client, a)


def node_num_of_devices(client: Client, a: Any) -> int:
    return 0


def node_list_devices(client: Client, a: Any) -> list[str]:
    return []


def connect_num_of_nwfilters(client: Client, a: Any) -> int:
    return 0


def connect_list_nwfilters(client: Client, a: Any) -> list[str]:
    return []


def connect_num_of_secrets(client: Client, a: Any) -> int:
    return 0


def connect_list_secrets(client: Client, a: Any) -> list[str]:
    return []


def node_device_lookup_by_name(client: Client, a: Any) -> NoReturn:
    raise ApiError(
        Code.NO_NODE_DEVICE, Origin.NODEDEV, f"Node device not found: no node device with matching name '{a.name}'"
    )


def node_device_get_xml_desc(client: Client, a: Any) -> NoReturn:
    node_device_lookup_by_name(client, a)


def node_device_is_active(client: Client, a: Any) -> NoReturn:
    node_device_lookup_by_name(client, a)


def nwfilter_lookup_by_name(client: Client, a: Any) -> NoReturn:
    raise ApiError(
        Code.NO_NWFILTER, Origin.NWFILTER, f"Network filter not found: no nwfilter with matching name '{a.name}'"
    )


def secret_lookup_by_uuid(client: Client, a: Any) -> NoReturn:
    raise ApiError(Code.NO_SECRET, Origin.SECRET, "Secret not found: no secret with matching uuid")


def secret_lookup_by_usage(client: Client, a: Any) -> NoReturn:
    raise ApiError(Code.NO_SECRET, Origin.SECRET, f"Secret not found: no secret with matching usage '{a.usage_id}'")
