"""From a URI to a connection that is open: reached, let in, kept alive, and asked for what the URI names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from manor.base.errors import HostError
from manor.rpc.caller import Caller
from manor.rpc.dial import dial
from manor.rpc.message import Event
from manor.rpc.protocol.catalog import REMOTE
from manor.rpc.uri import Uri

READ_ONLY: Final = 1
"""The flag of a connection that may change nothing. Source: libvirt API reference, virConnectFlags."""
AUTH_NONE, AUTH_SASL, AUTH_POLKIT = 0, 1, 2
FEATURE_KEEPALIVE: Final = 10
FEATURE_CLOSE_CALLBACK: Final = 15
KEEPALIVE_INTERVAL: Final = 5.0
KEEPALIVE_COUNT: Final = 5
"""Source: libvirt, libvirtd.conf, keepalive_interval and keepalive_count."""


async def open_caller(
    uri: Uri,
    on_event: Callable[[Event], None],
    *,
    is_read_only: bool = False,
    keepalive: tuple[float, int] | None = None,
) -> Caller:
    """Connect. Raises HostError, ConfigError, ProtocolError, RemoteError.

    keepalive: (seconds, questions) after which a daemon that does not answer is given up; (0, 0) never.
    """
    caller = Caller(await dial(uri, is_read_only=is_read_only), on_event)
    caller.start()
    try:
        await _authenticate(caller)
        interval, count = (KEEPALIVE_INTERVAL, KEEPALIVE_COUNT) if keepalive is None else keepalive
        if interval > 0 and await _supports(caller, FEATURE_KEEPALIVE):
            caller.start_keepalive(interval, count)
        await caller.call(REMOTE["connect_open"], uri.name, READ_ONLY if is_read_only else 0)
        if await _supports(caller, FEATURE_CLOSE_CALLBACK):
            await caller.call(REMOTE["connect_register_close_callback"])
    except BaseException:
        await caller.close()
        raise
    return caller


async def _supports(caller: Caller, feature: int) -> bool:
    return bool(await caller.call(REMOTE["connect_supports_feature"], feature))


async def _authenticate(caller: Caller) -> None:
    """Raises HostError if the daemon wants what we have not."""
    kinds = await caller.call(REMOTE["auth_list"])
    if not kinds or AUTH_NONE in kinds:
        return
    if AUTH_POLKIT in kinds:
        await caller.call(REMOTE["auth_polkit"])
        return
    raise HostError("the daemon wants a user name and password (SASL), which is not supported: use ssh or TLS")
