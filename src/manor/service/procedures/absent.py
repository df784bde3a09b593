"""Kinds of objects that no driver has: lists of them are empty, and none is found. What would make one is refused
(service.refusals)."""

from __future__ import annotations

import uuid as uuid_module
from typing import Any, NoReturn

from manor.base.errors import ApiError
from manor.drivers.errors import Code, Origin, invalid, invalid_argument
from manor.service.client import Client

# --- network filters --------------------------------------------------------------------------------------------------


def _no_filter(what: str) -> ApiError:
    return ApiError(Code.NO_NWFILTER, Origin.NWFILTER, f"Network filter not found: no nwfilter with matching {what}")


def _no_binding(name: str) -> ApiError:
    return ApiError(
        Code.NO_NWFILTER_BINDING, Origin.NWFILTER,
        f"Network filter binding not found: no nwfilter binding for port dev '{name}'",
    )  # fmt: skip


def connect_list_all_nwfilters(client: Client, a: Any) -> tuple[list[Any], int]:
    return [], 0


def connect_num_of_nwfilters(client: Client, a: Any) -> int:
    return 0


def connect_list_nwfilters(client: Client, a: Any) -> list[str]:
    return []


def nwfilter_lookup_by_name(client: Client, a: Any) -> NoReturn:
    raise _no_filter(f"name '{a.name}'")


def nwfilter_lookup_by_uuid(client: Client, a: Any) -> NoReturn:
    raise _no_filter(f"uuid '{uuid_module.UUID(bytes=bytes(a.uuid))}'")


def nwfilter_get_xml_desc(client: Client, a: Any) -> NoReturn:
    raise _no_filter(f"name '{a.nwfilter.name}'")


def nwfilter_undefine(client: Client, a: Any) -> NoReturn:
    raise _no_filter(f"name '{a.nwfilter.name}'")


def connect_list_all_nwfilter_bindings(client: Client, a: Any) -> tuple[list[Any], int]:
    return [], 0


def nwfilter_binding_lookup_by_port_dev(client: Client, a: Any) -> NoReturn:
    raise _no_binding(a.name)


def nwfilter_binding_get_xml_desc(client: Client, a: Any) -> NoReturn:
    raise _no_binding(a.binding.port_dev)


def nwfilter_binding_delete(client: Client, a: Any) -> NoReturn:
    raise _no_binding(a.binding.port_dev)


# --- checkpoints and backups ------------------------------------------------------------------------------------------


def _no_checkpoint(name: str) -> ApiError:
    return ApiError(
        Code.NO_DOMAIN_CHECKPOINT, Origin.DOMAIN_CHECKPOINT,
        f"Domain checkpoint not found: no domain checkpoint with matching name '{name}'",
    )  # fmt: skip


async def domain_list_all_checkpoints(client: Client, a: Any) -> tuple[list[Any], int]:
    await client.driver.domains.find(a.domain.uuid)
    return [], 0


def domain_checkpoint_lookup_by_name(client: Client, a: Any) -> NoReturn:
    raise _no_checkpoint(a.name)


def domain_checkpoint_get_xml_desc(client: Client, a: Any) -> NoReturn:
    raise _no_checkpoint(a.checkpoint.name)


def domain_checkpoint_list_all_children(client: Client, a: Any) -> NoReturn:
    raise _no_checkpoint(a.checkpoint.name)


def domain_checkpoint_get_parent(client: Client, a: Any) -> NoReturn:
    raise _no_checkpoint(a.checkpoint.name)


def domain_checkpoint_delete(client: Client, a: Any) -> NoReturn:
    raise _no_checkpoint(a.checkpoint.name)


async def domain_backup_get_xml_desc(client: Client, a: Any) -> NoReturn:
    await client.driver.domains.find(a.domain.uuid)
    raise ApiError(Code.NO_DOMAIN_BACKUP, Origin.DOMAIN, "Domain backup job id not found: no domain backup job present")


# --- ports of networks ------------------------------------------------------------------------------------------------


def _no_port(uuid: bytes) -> ApiError:
    text = uuid_module.UUID(bytes=bytes(uuid))
    return ApiError(
        Code.NO_NETWORK_PORT, Origin.NETWORK, f"network port not found: no network port with matching UUID '{text}'"
    )


async def network_list_all_ports(client: Client, a: Any) -> tuple[list[Any], int]:
    await client.driver.networks.find(a.network.uuid)
    return [], 0


async def network_port_lookup_by_uuid(client: Client, a: Any) -> NoReturn:
    await client.driver.networks.find(a.network.uuid)
    raise _no_port(a.uuid)


def network_port_get_xml_desc(client: Client, a: Any) -> NoReturn:
    raise _no_port(a.port.uuid)


def network_port_get_parameters(client: Client, a: Any) -> NoReturn:
    raise _no_port(a.port.uuid)


def network_port_set_parameters(client: Client, a: Any) -> NoReturn:
    raise _no_port(a.port.uuid)


def network_port_delete(client: Client, a: Any) -> NoReturn:
    raise _no_port(a.port.uuid)


# --- jobs of disks ----------------------------------------------------------------------------------------------------


async def _no_job(client: Client, a: Any) -> NoReturn:
    found = await client.driver.domains.devices(a.domain.uuid)
    if not any(a.path and a.path in (each.target, each.source) for each in found.disks):
        raise invalid_argument(f"No device found for specified path: {a.path}")
    raise invalid(f"disk {a.path} does not have an active block job")


async def domain_block_job_abort(client: Client, a: Any) -> None:
    await _no_job(client, a)


async def domain_block_job_set_speed(client: Client, a: Any) -> None:
    await _no_job(client, a)
