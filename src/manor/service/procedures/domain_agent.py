"""What the guest's agent is asked. Its answers are the guest's: checked before they are used.

Source of the commands and their answers: QEMU Guest Agent Protocol Reference 7.2; of the parameters: libvirt API
reference, virDomainGetGuestInfo, virDomainGetGuestVcpus.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from typing import Any, Final

from manor.base.errors import ApiError, ConfigError
from manor.domain.cpus import parse_cpus, show_cpus
from manor.drivers.errors import Code, Origin, invalid_argument
from manor.rpc.protocol.records import Filesystem, ParamType, TypedParam
from manor.service.client import Client

AGENT_TIMEOUT: Final = 5.0
"""Seconds. Source: libvirt 9.0 waits as long for the agent."""
LONGEST: Final = 86400.0
"""Seconds that a client may wait for the agent, where it asks to wait for ever."""
MAX_COMMAND: Final = 1 << 20
INT, UINT, ULLONG, BOOLEAN, STRING = (
    int(each) for each in (ParamType.INT, ParamType.UINT, ParamType.ULLONG, ParamType.BOOLEAN, ParamType.STRING)
)


async def _ask(client: Client, a: Any, command: str, **arguments: object) -> Any:
    timeout = client.service.agent_timeouts.get(a.domain.uuid, AGENT_TIMEOUT)
    return await client.driver.domains.agent(a.domain.uuid, command, arguments, timeout)


async def domain_agent_set_response_timeout(client: Client, a: Any) -> int:
    await client.driver.domains.find(a.domain.uuid)
    if a.timeout < -2:
        raise invalid_argument("guest agent timeout must be -2 (wait), -1 (usual), 0 (do not wait) or more")
    client.service.agent_timeouts[a.domain.uuid] = _seconds(a.timeout)
    return 0


def _seconds(timeout: int) -> float:
    """Source: libvirt API reference, virDomainAgentResponseTimeoutValues."""
    return {-2: LONGEST, -1: AGENT_TIMEOUT}.get(timeout, float(min(max(timeout, 0), LONGEST)))


async def qemu_domain_agent_command(client: Client, a: Any) -> str:
    if len(a.command) > MAX_COMMAND:
        raise invalid_argument(f"a command of the agent has at most {MAX_COMMAND} characters")
    try:
        command = json.loads(a.command)
        name, arguments = command["execute"], command.get("arguments", {})
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise invalid_argument(f'a command of the agent is written {{"execute": NAME}}, in JSON: {error}') from error
    if not isinstance(name, str) or not isinstance(arguments, dict):
        raise invalid_argument('a command of the agent is written {"execute": NAME, "arguments": {...}}')
    answer = await client.driver.domains.agent(a.domain.uuid, name, arguments, _seconds(a.timeout))
    return json.dumps({"return": answer}, separators=(",", ":"))


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


# --- all about the guest at once --------------------------------------------------------------------------------------


async def domain_get_guest_info(client: Client, a: Any) -> list[TypedParam]:
    await client.driver.domains.statistics(a.domain.uuid)  # it has to run
    if a.types >> len(_GUEST):
        raise invalid_argument(f"unsupported guest information types {a.types:#x}")
    found: list[TypedParam] = []
    for bit, (command, rows) in enumerate(_GUEST):
        if a.types and not a.types >> bit & 1:
            continue
        try:
            answer = await _ask(client, a, command)
            found += [TypedParam(*row) for row in rows(answer)]
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise _nonsense(command) from error
        except ApiError:
            if a.types:
                raise
            # The agent need not know every command; who asks for all takes what there is.
    return found


Row = tuple[str, int, Any]


def _users(answer: Any) -> Iterator[Row]:
    yield "user.count", UINT, len(answer)
    for index, user in enumerate(answer):
        yield f"user.{index}.name", STRING, str(user["user"])
        if user.get("domain"):
            yield f"user.{index}.domain", STRING, str(user["domain"])
        yield f"user.{index}.login-time", ULLONG, _natural(user["login-time"] * 1000)


def _os(answer: Any) -> Iterator[Row]:
    for name in ("id", "name", "pretty-name", "version", "version-id", "kernel-release", "kernel-version", "machine",
                 "variant", "variant-id"):  # fmt: skip
        if answer.get(name):
            yield f"os.{name}", STRING, str(answer[name])


def _timezone(answer: Any) -> Iterator[Row]:
    if answer.get("zone"):
        yield "timezone.name", STRING, str(answer["zone"])
    offset = answer["offset"]
    if not isinstance(offset, int) or abs(offset) > 86400:
        raise ValueError("offset")
    yield "timezone.offset", INT, offset


def _host(answer: Any) -> Iterator[Row]:
    yield "hostname", STRING, str(answer["host-name"])


def _filesystems(answer: Any) -> Iterator[Row]:
    yield "fs.count", UINT, len(answer)
    for index, fs in enumerate(answer):
        for name, key in (("name", "name"), ("mountpoint", "mountpoint"), ("fstype", "type")):
            yield f"fs.{index}.{name}", STRING, str(fs[key])
        for name in ("total-bytes", "used-bytes"):
            if name in fs:
                yield f"fs.{index}.{name}", ULLONG, _natural(fs[name])
        disks = fs.get("disk", [])
        yield f"fs.{index}.disk.count", UINT, len(disks)
        for number, disk in enumerate(disks):
            for name, key in (("serial", "serial"), ("device", "dev")):
                if disk.get(key):
                    yield f"fs.{index}.disk.{number}.{name}", STRING, str(disk[key])


def _disks(answer: Any) -> Iterator[Row]:
    yield "disk.count", UINT, len(answer)
    for index, disk in enumerate(answer):
        yield f"disk.{index}.name", STRING, str(disk["name"])
        yield f"disk.{index}.partition", BOOLEAN, bool(disk["partition"])
        dependencies = disk.get("dependencies", [])
        if dependencies:
            yield f"disk.{index}.dependency.count", UINT, len(dependencies)
        for number, name in enumerate(dependencies):
            yield f"disk.{index}.dependency.{number}.name", STRING, str(name)
        if disk.get("alias"):
            yield f"disk.{index}.guest_alias", STRING, str(disk["alias"])


def _interfaces(answer: Any) -> Iterator[Row]:
    yield "if.count", UINT, len(answer)
    for index, each in enumerate(answer):
        yield f"if.{index}.name", STRING, str(each["name"])
        if each.get("hardware-address"):
            yield f"if.{index}.hwaddr", STRING, str(each["hardware-address"])
        addresses = each.get("ip-addresses", [])
        yield f"if.{index}.addr.count", UINT, len(addresses)
        for number, address in enumerate(addresses):
            yield f"if.{index}.addr.{number}.type", STRING, str(address["ip-address-type"])
            yield f"if.{index}.addr.{number}.addr", STRING, str(address["ip-address"])
            yield f"if.{index}.addr.{number}.prefix", UINT, _natural(address["prefix"])


def _natural(value: object) -> int:
    if not isinstance(value, int | float) or not 0 <= value < 1 << 63:
        raise ValueError(f"{value!r} is not a number from 0")
    return int(value)


_GUEST: Final[tuple[tuple[str, Callable[[Any], Iterator[Row]]], ...]] = (
    ("guest-get-users", _users), ("guest-get-osinfo", _os), ("guest-get-timezone", _timezone),
    ("guest-get-host-name", _host), ("guest-get-fsinfo", _filesystems), ("guest-get-disks", _disks),
    ("guest-network-get-interfaces", _interfaces),
)  # fmt: skip
"""In the order of the bits of virDomainGuestInfoTypes."""


# --- processors, keys -------------------------------------------------------------------------------------------------


async def _vcpus(client: Client, a: Any) -> dict[int, tuple[bool, bool]]:
    """Number -> (whether the guest uses it, whether it can do without)."""
    answer = await _ask(client, a, "guest-get-vcpus")
    try:
        return {
            _natural(each["logical-id"]) & 0xFFFF: (bool(each["online"]), bool(each.get("can-offline")))
            for each in answer
        }
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise _nonsense("guest-get-vcpus") from error


async def domain_get_guest_vcpus(client: Client, a: Any) -> list[TypedParam]:
    vcpus = await _vcpus(client, a)
    sets = (
        ("vcpus", vcpus), ("online", [each for each, (on, _) in vcpus.items() if on]),
        ("offlinable", [each for each, (_, can) in vcpus.items() if can]),
    )  # fmt: skip
    return [TypedParam(name, STRING, show_cpus(found)) for name, found in sets]


async def domain_set_guest_vcpus(client: Client, a: Any) -> None:
    try:
        numbers = sorted(parse_cpus(a.cpu_map))
    except ValueError as error:
        raise invalid_argument(str(error)) from error
    vcpus = await _vcpus(client, a)
    for each in numbers:
        if each not in vcpus:
            raise invalid_argument(f"guest is missing vCPU '{each}'")
        if not a.state and not vcpus[each][1]:
            raise invalid_argument(f"guest vCPU '{each}' is not offlinable")
    await _ask(client, a, "guest-set-vcpus", vcpus=[{"logical-id": each, "online": bool(a.state)} for each in numbers])


async def domain_authorized_ssh_keys_get(client: Client, a: Any) -> list[str]:
    answer = await _ask(client, a, "guest-ssh-get-authorized-keys", username=a.user)
    try:
        return [str(each) for each in answer["keys"]]
    except (KeyError, TypeError) as error:
        raise _nonsense("guest-ssh-get-authorized-keys") from error


async def domain_authorized_ssh_keys_set(client: Client, a: Any) -> None:
    # virDomainAuthorizedSSHKeysSetFlags: 1 add to what is there, 2 take away; the whole list without either.
    if a.flags & 1 and a.flags & 2:
        raise invalid_argument("flags 'append' and 'remove' are mutually exclusive")
    if a.flags & 2:
        await _ask(client, a, "guest-ssh-remove-authorized-keys", username=a.user, keys=list(a.keys))
    else:
        await _ask(
            client, a, "guest-ssh-add-authorized-keys", username=a.user, keys=list(a.keys), reset=not a.flags & 1
        )
