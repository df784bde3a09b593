"""Domains: defining them, their life, their description."""

from __future__ import annotations

from typing import Any, Final

from manor.domain.state import DomainState
from manor.drivers.api import DomainFlags
from manor.drivers.errors import invalid_argument, no_domain
from manor.rpc.protocol.records import Domain
from manor.rpc.session import Answer
from manor.service.client import Client, cut, matches
from manor.service.consoles import Mode
from manor.service.procedures.own_console import open_console

START_PAUSED: Final = 1
START_FORCE_BOOT: Final = 8
START_VALIDATE: Final = 16
"""virDomainCreateFlags."""
XML_SECURE: Final = 1
XML_INACTIVE: Final = 2
"""virDomainXMLFlags."""
CONSOLE_FORCE: Final = 1
"""virDomainConsoleFlags."""


_GROUPS: Final = (1 | 2, 4 | 8, 16 | 32 | 64 | 128, 256 | 512, 1024 | 2048, 4096 | 8192, 16384 | 32768)
"""Bits of which any may hold, and together all do."""


def is_wanted(flags: int, found: DomainFlags) -> bool:
    """Whether a domain passes a list's filter. Source: libvirt API reference, virConnectListAllDomainsFlags."""
    state = found.state
    is_other = state not in (DomainState.RUNNING, DomainState.PAUSED, DomainState.SHUTOFF)
    return matches(
        flags,
        ((1, found.active), (2, not found.active)),
        ((4, found.persistent), (8, not found.persistent)),
        (
            (16, state == DomainState.RUNNING),
            (32, state == DomainState.PAUSED),
            (64, state == DomainState.SHUTOFF),
            (128, is_other),
        ),
        ((256, found.managed_save), (512, not found.managed_save)),
        ((1024, found.autostart), (2048, not found.autostart)),
        ((4096, found.snapshots), (8192, not found.snapshots)),
        ((16384, False), (32768, True)),
    )


async def connect_list_all_domains(client: Client, a: Any) -> tuple[list[Domain], int]:
    flags = a.flags
    if all(flags & group in (0, group) for group in _GROUPS):
        flags = 0  # each group asks for everything, or nothing: a filter that all domains pass
    rows = await client.driver.domains.all()
    found = [domain for domain, its in rows if not flags or is_wanted(flags, its)]
    return (found if a.need_results else [], len(found))


async def connect_num_of_domains(client: Client, a: Any) -> int:
    return sum(flags.active for _, flags in await client.driver.domains.all())


async def connect_list_domains(client: Client, a: Any) -> list[int]:
    rows = await client.driver.domains.all()
    return cut([domain.id for domain, flags in rows if flags.active], a.max_ids)


async def connect_num_of_defined_domains(client: Client, a: Any) -> int:
    return sum(not flags.active for _, flags in await client.driver.domains.all())


async def connect_list_defined_domains(client: Client, a: Any) -> list[str]:
    rows = await client.driver.domains.all()
    return cut([domain.name for domain, flags in rows if not flags.active], a.max_names)


async def domain_lookup_by_name(client: Client, a: Any) -> Domain:
    return await client.driver.domains.find_name(a.name)


async def domain_lookup_by_uuid(client: Client, a: Any) -> Domain:
    return await client.driver.domains.find(a.uuid)


async def domain_lookup_by_id(client: Client, a: Any) -> Domain:
    if a.id < 0:
        raise no_domain(f"with matching id {a.id}")
    return await client.driver.domains.find_id(a.id)


# --- defining ---------------------------------------------------------------------------------------------------------


async def domain_define_xml(client: Client, a: Any) -> Domain:
    return await client.driver.domains.define(a.xml, client.who)


async def domain_define_xml_flags(client: Client, a: Any) -> Domain:
    return await client.driver.domains.define(a.xml, client.who)


async def domain_undefine(client: Client, a: Any) -> None:
    await client.driver.domains.undefine(a.domain.uuid, client.who, 0)


async def domain_undefine_flags(client: Client, a: Any) -> None:
    await client.driver.domains.undefine(a.domain.uuid, client.who, a.flags)


async def domain_rename(client: Client, a: Any) -> int:
    if not a.new_name:
        raise invalid_argument("a domain needs a name")
    await client.driver.domains.rename(a.domain.uuid, a.new_name, client.who)
    return 0


async def domain_get_xml_desc(client: Client, a: Any) -> str:
    return await client.driver.domains.xml(a.domain.uuid, bool(a.flags & XML_INACTIVE), bool(a.flags & XML_SECURE))


async def domain_is_persistent(client: Client, a: Any) -> int:
    return int((await client.driver.domains.flags(a.domain.uuid)).persistent)


async def domain_is_active(client: Client, a: Any) -> int:
    return int((await client.driver.domains.flags(a.domain.uuid)).active)


async def domain_is_updated(client: Client, a: Any) -> int:
    return int((await client.driver.domains.flags(a.domain.uuid)).updated)


async def domain_get_autostart(client: Client, a: Any) -> int:
    return int((await client.driver.domains.flags(a.domain.uuid)).autostart)


async def domain_set_autostart(client: Client, a: Any) -> None:
    await client.driver.domains.set_autostart(a.domain.uuid, bool(a.autostart))


# --- life -------------------------------------------------------------------------------------------------------------


async def domain_create(client: Client, a: Any) -> None:
    await client.driver.domains.start(a.domain.uuid, False)


async def domain_create_with_flags(client: Client, a: Any) -> Domain:
    return await client.driver.domains.start(
        a.domain.uuid, bool(a.flags & START_PAUSED), fresh=bool(a.flags & START_FORCE_BOOT)
    )


async def domain_create_xml(client: Client, a: Any) -> Domain:
    return await client.driver.domains.create_xml(a.xml, bool(a.flags & START_PAUSED))


async def domain_destroy(client: Client, a: Any) -> None:
    await client.driver.domains.destroy(a.domain.uuid, False)


async def domain_destroy_flags(client: Client, a: Any) -> None:
    await client.driver.domains.destroy(a.domain.uuid, bool(a.flags & 1))


async def domain_shutdown(client: Client, a: Any) -> None:
    await client.driver.domains.shutdown(a.domain.uuid, 0)


async def domain_shutdown_flags(client: Client, a: Any) -> None:
    await client.driver.domains.shutdown(a.domain.uuid, a.flags)


async def domain_reboot(client: Client, a: Any) -> None:
    await client.driver.domains.reboot(a.domain.uuid, a.flags)


async def domain_reset(client: Client, a: Any) -> None:
    await client.driver.domains.reset(a.domain.uuid)


async def domain_suspend(client: Client, a: Any) -> None:
    await client.driver.domains.suspend(a.domain.uuid)


async def domain_resume(client: Client, a: Any) -> None:
    await client.driver.domains.resume(a.domain.uuid)


# --- console ----------------------------------------------------------------------------------------------------------


async def domain_open_console(client: Client, a: Any) -> Answer:
    # Where libvirt ends the session of another client, it may go on here, but no longer write.
    mode = Mode.TAKE_OVER if a.flags & CONSOLE_FORCE else Mode.WRITE
    return await open_console(client, a.domain.uuid, a.dev_name, mode)
