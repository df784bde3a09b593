"""Questions about one domain."""

from __future__ import annotations

from typing import Any, Final

from manor.drivers.errors import invalid_argument, not_running
from manor.rpc.protocol.records import DiskError, GuestInterface, TypedParam, VcpuInfo
from manor.service.client import Client, is_config

_VCPU_RUNNING: Final = 1


async def domain_get_info(client: Client, a: Any) -> tuple[int, int, int, int, int]:
    info = await client.driver.domains.info(a.domain.uuid)
    return info.state, info.max_memory, info.memory, info.vcpus, info.cpu_time


async def domain_get_state(client: Client, a: Any) -> tuple[int, int]:
    return await client.driver.domains.state(a.domain.uuid)


async def domain_get_os_type(client: Client, a: Any) -> str:
    return await client.driver.domains.os_type(a.domain.uuid)


async def domain_get_max_memory(client: Client, a: Any) -> int:
    return (await client.driver.domains.info(a.domain.uuid)).max_memory


async def domain_get_max_vcpus(client: Client, a: Any) -> int:
    return (await client.driver.domains.info(a.domain.uuid)).max_vcpus


async def domain_get_vcpus_flags(client: Client, a: Any) -> int:
    current, maximum = await client.driver.domains.vcpus(a.domain.uuid, await is_config(client, a))
    return maximum if a.flags & 4 else current


async def domain_get_vcpus(client: Client, a: Any) -> tuple[list[VcpuInfo], bytes]:
    statistics = await client.driver.domains.statistics(a.domain.uuid)
    times = statistics.vcpu_times[: max(0, a.max_info)]
    cpus = client.driver.node.info().cpus
    size = min(max(0, a.map_size), 4096)
    one = ((1 << cpus) - 1).to_bytes(max(size, (cpus + 7) // 8), "little")[:size]
    return [VcpuInfo(i, _VCPU_RUNNING, t, -1) for i, t in enumerate(times)], one * len(times)


async def domain_get_security_label(client: Client, a: Any) -> tuple[str, int]:
    await client.driver.domains.find(a.domain.uuid)
    return "", 0


async def domain_get_security_label_list(client: Client, a: Any) -> tuple[list[Any], int]:
    await client.driver.domains.find(a.domain.uuid)
    return [], 0


async def domain_get_messages(client: Client, a: Any) -> list[str]:
    # virDomainMessageType: 1 deprecation, 2 tainting; those of ignored elements are neither.
    return [] if a.flags else list(await client.driver.domains.messages(a.domain.uuid))


async def domain_get_control_info(client: Client, a: Any) -> tuple[int, int, int]:
    if not (await client.driver.domains.flags(a.domain.uuid)).active:
        raise not_running()
    return 0, 0, 0


async def domain_get_block_job_info(client: Client, a: Any) -> tuple[int, int, int, int, int]:
    await client.driver.domains.find(a.domain.uuid)
    return 0, 0, 0, 0, 0


async def domain_get_launch_security_info(client: Client, a: Any) -> list[TypedParam]:
    await client.driver.domains.find(a.domain.uuid)
    return []  # no guest's memory is encrypted


async def domain_get_disk_errors(client: Client, a: Any) -> tuple[list[DiskError], int]:
    await client.driver.domains.find(a.domain.uuid)
    return [], 0


async def domain_get_block_info(client: Client, a: Any) -> tuple[int, int, int]:
    return await client.driver.domains.block_info(a.domain.uuid, a.path)


async def domain_interface_addresses(client: Client, a: Any) -> list[GuestInterface]:
    if a.source not in (0, 1, 2):
        raise invalid_argument(f"Unknown IP address data source {a.source}")
    return list(await client.driver.domains.addresses(a.domain.uuid, a.source))
