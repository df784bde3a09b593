"""Secrets."""

from __future__ import annotations

from typing import Any

from manor.drivers.errors import uuid_text
from manor.rpc.protocol.records import Secret
from manor.service.client import Client, cut, matches


async def connect_list_all_secrets(client: Client, a: Any) -> tuple[list[Secret], int]:
    # virConnectListAllSecretsFlags
    found = [
        secret
        for secret, is_ephemeral, is_private in await client.driver.secrets.all()
        if matches(a.flags, ((1, is_ephemeral), (2, not is_ephemeral)), ((4, is_private), (8, not is_private)))
    ]
    return (found if a.need_results else [], len(found))


async def connect_num_of_secrets(client: Client, a: Any) -> int:
    return len(await client.driver.secrets.all())


async def connect_list_secrets(client: Client, a: Any) -> list[str]:
    return cut([uuid_text(secret.uuid) for secret, _, _ in await client.driver.secrets.all()], a.max_uuids)


async def secret_lookup_by_uuid(client: Client, a: Any) -> Secret:
    return await client.driver.secrets.find(a.uuid)


async def secret_lookup_by_usage(client: Client, a: Any) -> Secret:
    return await client.driver.secrets.find_usage(a.usage_type, a.usage_id)


async def secret_define_xml(client: Client, a: Any) -> Secret:
    return await client.driver.secrets.define(a.xml)


async def secret_get_xml_desc(client: Client, a: Any) -> str:
    return await client.driver.secrets.xml(a.secret.uuid)


async def secret_set_value(client: Client, a: Any) -> None:
    await client.driver.secrets.set_value(a.secret.uuid, a.value)


async def secret_get_value(client: Client, a: Any) -> bytes:
    return await client.driver.secrets.value(a.secret.uuid)


async def secret_undefine(client: Client, a: Any) -> None:
    await client.driver.secrets.undefine(a.secret.uuid)
