"""Domains: saved into files, and restored from them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from manor.drivers.errors import invalid_argument, unsupported_config
from manor.service.client import Client
from manor.service.jobs import Job, Purpose

OPERATION_SAVE: Final = 2
"""virDomainJobOperation."""
XML_SECURE: Final = 1
"""virDomainSaveImageXMLFlags."""
_FILE: Final = "file"
_XML: Final = "dxml"
_FORMAT: Final = "image_format"
"""virDomainSaveParams: VIR_DOMAIN_SAVE_PARAM_FILE, _DXML, _IMAGE_FORMAT."""


async def _save(client: Client, uuid: bytes, path: str | None, xml: str | None, flags: int) -> None:
    """As a job: who asks can see how far it is, and stop it; it goes on when the client goes."""
    name = (await client.driver.domains.find(uuid)).name
    purpose = Purpose(f"save {name}", client.who, name, "the domain as it runs", uuid, OPERATION_SAVE, stops_alone=True)

    async def work(job: Job) -> None:
        await client.driver.domains.save(uuid, path, xml, flags, job.progress)

    await client.service.jobs.run(purpose, work)


async def domain_save(client: Client, a: Any) -> None:
    await _save(client, a.domain.uuid, a.path, None, 0)


async def domain_save_flags(client: Client, a: Any) -> None:
    await _save(client, a.domain.uuid, a.path, a.xml, a.flags)


async def domain_save_params(client: Client, a: Any) -> None:
    """Without a file it is a managed save."""
    values = _values(a.params)
    await _save(client, a.domain.uuid, values.get(_FILE), values.get(_XML), a.flags)


async def domain_restore(client: Client, a: Any) -> None:
    await client.driver.domains.restore(a.path)


async def domain_restore_flags(client: Client, a: Any) -> None:
    await client.driver.domains.restore(a.path, a.xml, a.flags)


async def domain_restore_params(client: Client, a: Any) -> None:
    values = _values(a.params)
    if _FILE not in values:
        raise invalid_argument(f"the parameter {_FILE!r} is missing")
    await client.driver.domains.restore(values[_FILE], values.get(_XML), a.flags)


def _values(params: Any) -> Mapping[str, str]:
    values: dict[str, str] = {}
    for param in params:
        if param.field not in (_FILE, _XML, _FORMAT) or not isinstance(param.value, str):
            raise invalid_argument(f"the parameter {param.field!r} is unknown, or no text")
        values[param.field] = param.value
    if values.get(_FORMAT, "raw") not in ("raw", "zstd"):
        # Pieces that shrink are compressed by zstd, whatever is asked for.
        raise unsupported_config(f"saved states are not compressed by {values[_FORMAT]}")
    return values


async def domain_save_image_get_xml_desc(client: Client, a: Any) -> str:
    return await client.driver.domains.saved_xml(a.file, bool(a.flags & XML_SECURE))


async def domain_save_image_define_xml(client: Client, a: Any) -> None:
    await client.driver.domains.set_saved_xml(a.file, a.xml, a.flags)


async def domain_managed_save(client: Client, a: Any) -> None:
    await _save(client, a.domain.uuid, None, None, a.flags)


async def domain_has_managed_save_image(client: Client, a: Any) -> int:
    return int((await client.driver.domains.flags(a.domain.uuid)).managed_save)


async def domain_managed_save_remove(client: Client, a: Any) -> None:
    await client.driver.domains.remove_saved(a.domain.uuid)


async def domain_managed_save_get_xml_desc(client: Client, a: Any) -> str:
    return await client.driver.domains.managed_xml(a.domain.uuid, bool(a.flags & XML_SECURE))


async def domain_managed_save_define_xml(client: Client, a: Any) -> None:
    if a.xml is None:
        raise invalid_argument("a description is missing")
    await client.driver.domains.set_managed_xml(a.domain.uuid, a.xml, a.flags)
