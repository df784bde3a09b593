"""Registering for events."""

from __future__ import annotations

from typing import Any

from manor.service.client import Client


def _register(client: Client, kind: str, event: int, subject: Any) -> int:
    uuid = getattr(subject, "uuid", None)
    return client.service.events.register(client.session, client.driver.uri, kind, event, uuid)


def connect_domain_event_register(client: Client, a: Any) -> int:
    client.service.events.register(client.session, client.driver.uri, "domain", 0, None, is_old=True)
    return 1


def connect_domain_event_deregister(client: Client, a: Any) -> int:
    client.service.events.deregister_old(client.session, 0)
    return 0


def connect_domain_event_register_any(client: Client, a: Any) -> None:
    client.service.events.register(client.session, client.driver.uri, "domain", a.event_id, None, is_old=True)


def connect_domain_event_deregister_any(client: Client, a: Any) -> None:
    client.service.events.deregister_old(client.session, a.event_id)


def connect_domain_event_callback_register_any(client: Client, a: Any) -> int:
    return _register(client, "domain", a.event_id, a.domain)


def connect_domain_event_callback_deregister_any(client: Client, a: Any) -> None:
    client.service.events.deregister(client.session, "domain", a.callback_id)


def connect_network_event_register_any(client: Client, a: Any) -> int:
    return _register(client, "network", a.event_id, a.network)


def connect_network_event_deregister_any(client: Client, a: Any) -> None:
    client.service.events.deregister(client.session, "network", a.callback_id)


def connect_storage_pool_event_register_any(client: Client, a: Any) -> int:
    return _register(client, "pool", a.event_id, a.pool)


def connect_storage_pool_event_deregister_any(client: Client, a: Any) -> None:
    client.service.events.deregister(client.session, "pool", a.callback_id)


def connect_node_device_event_register_any(client: Client, a: Any) -> int:
    return _register(client, "node_device", a.event_id, None)


def connect_node_device_event_deregister_any(client: Client, a: Any) -> None:
    client.service.events.deregister(client.session, "node_device", a.callback_id)


def connect_secret_event_register_any(client: Client, a: Any) -> int:
    return _register(client, "secret", a.event_id, None)


def connect_secret_event_deregister_any(client: Client, a: Any) -> None:
    client.service.events.deregister(client.session, "secret", a.callback_id)
