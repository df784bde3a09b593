"""Questions about one domain."""

from __future__ import annotations

import base64
from typing import Any, Final

from manor.base.errors import ApiError, ConfigError
from manor.drivers.errors import Code, Origin, invalid_argument, not_running
from manor.rpc.protocol.records import DiskError, Filesystem, GuestInterface, VcpuInfo
from manor.service.client import Client, affected

AGENT_TIMEOUT: Final = 5.0
"""Seconds. Source: libvirt 9.0 waits as long for the agent."""
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
    live, config = affected(a.flags, (await client.driver.domains.flags(a.domain.uuid)).active)
    if live and config:
        raise invalid_argument("ask for the live number or for that of the configuration, not for both")
    current, maximum = await client.driver.domains.vcpus(a.domain.uuid, config)
    return maximum if a.flags & 4 else current


async def domain_get_vcpus(client: Client, a: Any) -> tuple[list[VcpuInfo], bytes]:
    statistics = await client.driver.domains.statistics(a.domain.uuid)
    times = statistics.vcpu_times[: max(0, a.max_info)]
    cpus = client.driver.node.info().cpus
    size = min(max(0, a.map_size), 4096)
    one = ((1 << cpus) - 1).to_bytes(max(size, (cpus + 7) // 8), "little")[:size]
    return [VcpuInfo(i, _VCPU_RUNNING, t, -1) for i, t in enumerate(times)], one * len(times)


async def domain_get_vcpu_pin_info(client: Client, a: Any) -> tuple[bytes, int]:
    info = await client.driver.domains.info(a.domain.uuid)
    count = min(info.vcpus, max(0, a.max_maps))
    cpus = client.driver.node.info().cpus
    size = min(max(0, a.map_size), 4096)
    one = ((1 << cpus) - 1).to_bytes(max(size, (cpus + 7) // 8), "little")[:size]
    return one * count, count


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


async def domain_get_job_info(client: Client, a: Any) -> tuple[int, ...]:
    await client.driver.domains.find(a.domain.uuid)
    return (0,) * 12


async def domain_get_job_stats(client: Client, a: Any) -> tuple[int, list[Any]]:
    await client.driver.domains.find(a.domain.uuid)
    return 0, []


async def domain_get_block_job_info(client: Client, a: Any) -> tuple[int, int, int, int, int]:
    await client.driver.domains.find(a.domain.uuid)
    return 0, 0, 0, 0, 0


async def domain_get_disk_errors(client: Client, a: Any) -> tuple[list[DiskError], int]:
    await client.driver.domains.find(a.domain.uuid)
    return [], 0


async def domain_get_block_info(client: Client, a: Any) -> tuple[int, int, int]:
    return await client.driver.domains.block_info(a.domain.uuid, a.path)


async def domain_interface_addresses(client: Client, a: Any) -> list[GuestInterface]:
    if a.source not in (0, 1, 2):
        raise invalid_argument(f"Unknown IP address data source {a.source}")
    return list(await client.driver.domains.addresses(a.domain.uuid, a.source))


# --- the guest's agent ------------------------------------------------------------------------------------------------


async def _ask(client: Client, a: Any, command: str, **arguments: object) -> Any:
    return await client.driver.domains.agent(a.domain.uuid, command, arguments, AGENT_TIMEOUT)


async def domain_get_hostname(client: Client, a: Any) -> str:
    found = await _ask(client, a, "guest-get-host-name")
    if not isinstance(found, dict) or not isinstance(found.get("host-name"), str):
        raise _nonsense("guest-get-host-name")
    return str(found["host-name"])


async def domain_get_time(client: Client, a: Any) -> tuple[int, int]:
    found = await _ask(client, a, "guest-get-time")
    if not isinstance(found, int) or not 0 <= found < 1 << 63:
        raise _nonsense("guest-get-time")
    return divmod(found, 1_000_000_000)


async def domain_set_time(client: Client, a: Any) -> None:
    if a.flags & 1:
        await _ask(client, a, "guest-set-time")
    else:
        await _ask(client, a, "guest-set-time", time=a.seconds * 1_000_000_000 + a.nseconds)


async def domain_fsfreeze(client: Client, a: Any) -> int:
    if a.mountpoints:
        return _count(await _ask(client, a, "guest-fsfreeze-freeze-list", mountpoints=list(a.mountpoints)))
    return _count(await _ask(client, a, "guest-fsfreeze-freeze"))


async def domain_fsthaw(client: Client, a: Any) -> int:
    return _count(await _ask(client, a, "guest-fsfreeze-thaw"))


async def domain_fstrim(client: Client, a: Any) -> None:
    await _ask(client, a, "guest-fstrim", minimum=a.minimum)


async def domain_get_fsinfo(client: Client, a: Any) -> tuple[list[Filesystem], int]:
    found = await _ask(client, a, "guest-get-fsinfo")
    rows = []
    for each in found if isinstance(found, list) else []:
        try:
            disks = [str(disk.get("dev", "")) for disk in each.get("disk", ())]
            rows.append(Filesystem(str(each["mountpoint"]), str(each["name"]), str(each["type"]), disks))
        except (KeyError, TypeError, AttributeError) as error:
            raise _nonsense("guest-get-fsinfo") from error
    return rows, len(rows)


async def domain_set_user_password(client: Client, a: Any) -> None:
    if not a.user or a.password is None:
        raise ConfigError("user", "give a user and a password")
    word = base64.b64encode(a.password.encode()).decode()
    await _ask(client, a, "guest-set-user-password", username=a.user, password=word, crypted=bool(a.flags & 1))


def _count(value: object) -> int:
    if not isinstance(value, int) or not 0 <= value < 1 << 31:
        raise _nonsense("guest-fsfreeze")
    return value


def _nonsense(command: str) -> ApiError:
    return ApiError(Code.INTERNAL_ERROR, Origin.DOMAIN, f"internal error: the guest's agent answered {command} badly")
