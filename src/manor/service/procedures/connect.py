"""The connection itself, and what its driver can do."""

from __future__ import annotations

from typing import Any, Final

from manor import __version__
from manor.base.errors import ApiError
from manor.drivers.errors import Code, Origin
from manor.drivers.remote import PREFIX
from manor.rpc.protocol.catalog import REMOTE
from manor.service.client import Client
from manor.service.forward import open_remote
from manor.spec.machine import MAX_CPUS

FEATURES: Final = frozenset({2, 8, 9, 10, 14, 15, 16})
"""What clients ask about, and is there: remote, descriptors, string parameters, keepalive, numbered event callbacks,
close callbacks, network callbacks. Source: observed with virsh 9.0 and 11.3."""
_KEEPALIVE: Final = 10
_PASS_FILES: Final = 8
_CLOSE_CALLBACK: Final = 15
READ_ONLY: Final = 1
"""virConnectFlags."""
PROTOCOL_VERSION: Final = 9_000_000
"""The libvirt whose protocol this is, major * 1,000,000 + minor * 1,000 + release: clients look at nothing else."""


def auth_list(client: Client, a: Any) -> list[int]:
    return [0]


async def connect_open(client: Client, a: Any) -> None:
    if client.opened is not None or client.remote is not None or client.is_opening:
        raise ApiError(Code.INVALID_ARG, Origin.REMOTE, "invalid argument: connection already open")
    if a.flags & READ_ONLY:
        client.session.is_read_only = True
    client.is_opening = True
    try:
        if a.name is not None and a.name.startswith(PREFIX):
            await open_remote(client, a.name)
        else:
            client.opened = await client.service.open(a.name)
            client.uri = a.name or client.opened.uri
    finally:
        client.is_opening = False


def connect_close(client: Client, a: Any) -> None:
    client.service.forget(client)


async def connect_supports_feature(client: Client, a: Any) -> int:
    if a.feature == _KEEPALIVE:
        interval, count = client.service.keepalive
        if interval:
            client.session.start_keepalive(interval, count)
        return int(interval > 0)
    if client.remote is None or a.feature == _CLOSE_CALLBACK:
        return int(a.feature in FEATURES)
    if a.feature == _PASS_FILES and not (client.session.can_pass_files and client.remote.can_pass_files):
        return 0
    return int((await client.remote.call(REMOTE["connect_supports_feature"], a)).value)


def connect_register_close_callback(client: Client, a: Any) -> None:
    client.wants_close_event = True


def connect_unregister_close_callback(client: Client, a: Any) -> None:
    client.wants_close_event = False


def connect_set_identity(client: Client, a: Any) -> None:
    return None


def connect_get_type(client: Client, a: Any) -> str:
    return client.driver.kind


def connect_get_version(client: Client, a: Any) -> int:
    numbers = [int(word) if word.isdigit() else 0 for word in __version__.split(".")[:3]]
    major, minor, release = [*numbers, 0, 0, 0][:3]
    return major * 1_000_000 + minor * 1000 + release


def connect_get_lib_version(client: Client, a: Any) -> int:
    return PROTOCOL_VERSION


def connect_get_uri(client: Client, a: Any) -> str:
    return client.uri


def connect_get_hostname(client: Client, a: Any) -> str:
    return client.driver.node.hostname()


def connect_get_max_vcpus(client: Client, a: Any) -> int:
    return MAX_CPUS


def connect_get_capabilities(client: Client, a: Any) -> str:
    return client.driver.node.capabilities()


def connect_get_domain_capabilities(client: Client, a: Any) -> str:
    return client.driver.node.domain_capabilities(a.arch, a.machine, a.virt_type)


def connect_get_storage_pool_capabilities(client: Client, a: Any) -> str:
    kinds = ("dir", "fs", "netfs", "logical", "disk", "iscsi", "scsi", "rbd", "zfs")
    rows = "".join(f"  <pool type='{kind}' supported='{'yes' if kind == 'dir' else 'no'}'/>\n" for kind in kinds)
    return f"<storagepoolCapabilities>\n{rows}</storagepoolCapabilities>\n"


def connect_is_secure(client: Client, a: Any) -> int:
    return 1


def connect_get_sysinfo(client: Client, a: Any) -> str:
    return client.driver.node.firmware()


def connect_get_cpu_model_names(client: Client, a: Any) -> tuple[list[str], int]:
    names = ["qemu64"] if a.arch in ("x86_64", "i686") else []
    return (names if a.need_results else [], len(names))
