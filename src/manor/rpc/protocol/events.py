"""Events by name: the number a client registers for, and the message that carries it.

Source: libvirt API reference, virDomainEventID, virNetworkEventID, virStoragePoolEventID, virNodeDeviceEventID,
virSecretEventID.
"""

from __future__ import annotations

from typing import NamedTuple

from manor.rpc.protocol.catalog import REMOTE, Procedure


class EventKind(NamedTuple):
    """A kind of event. object: domain, network, storage_pool, node_device or secret; number: within that object's."""

    object: str
    name: str
    number: int
    message: Procedure


REGISTER = {
    "domain": ("connect_domain_event_callback_register_any", "connect_domain_event_callback_deregister_any"),
    "network": ("connect_network_event_register_any", "connect_network_event_deregister_any"),
    "storage_pool": ("connect_storage_pool_event_register_any", "connect_storage_pool_event_deregister_any"),
    "node_device": ("connect_node_device_event_register_any", "connect_node_device_event_deregister_any"),
    "secret": ("connect_secret_event_register_any", "connect_secret_event_deregister_any"),
}
"""Object -> the procedures that register (event's number, object or None) -> callback's number, and deregister it."""

_NAMES = {
    "domain": (
        "lifecycle", "reboot", "rtc_change", "watchdog", "io_error", "graphics", "io_error_reason", "control_error",
        "block_job", "disk_change", "tray_change", "pmwakeup", "pmsuspend", "balloon_change", "pmsuspend_disk",
        "device_removed", "block_job_2", "tunable", "agent_lifecycle", "device_added", "migration_iteration",
        "job_completed", "device_removal_failed", "metadata_change", "block_threshold", "memory_failure",
        "memory_device_size_change", "nic_mac_change",
    ),
    "network": ("lifecycle", "metadata_change"),
    "storage_pool": ("lifecycle", "refresh"),
    "node_device": ("lifecycle", "update"),
    "secret": ("lifecycle", "value_changed"),
}  # fmt: skip


def _message(kind: str, name: str) -> Procedure:
    callback = REMOTE.get(f"{kind}_event_callback_{name}")
    return callback if callback is not None else REMOTE[f"{kind}_event_{name}"]


EVENTS: dict[tuple[str, str], EventKind] = {
    (kind, name): EventKind(kind, name, number, _message(kind, name))
    for kind, names in _NAMES.items()
    for number, name in enumerate(names)
}
"""(object, name) -> kind."""

BY_MESSAGE: dict[int, EventKind] = {event.message.number: event for event in EVENTS.values()}
"""Number of the message -> kind."""
