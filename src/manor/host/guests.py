"""Where the default guest comes from. Nothing is fetched here, and nothing written."""

from __future__ import annotations

from pathlib import Path

from manor.base.errors import ManorError
from manor.guests.default import cached_version
from manor.guests.packages import AptClient
from manor.host.finding import Finding

_OWN_KERNEL = "Pass a kernel and an initramfs: manor run --kernel FILE --initrd FILE."


def check_packages(has_client: bool | None = None) -> Finding:
    """has_client: for tests; otherwise it is looked for."""
    if AptClient.is_present() if has_client is None else has_client:
        return Finding("packages", "ok", "apt is there to fetch the default guest with", facts={"client": "apt"})
    text = "there is no apt, so the default guest cannot be fetched"
    return Finding("packages", "missing", text, _OWN_KERNEL, {"client": None})


def check_default_guest(can_fetch: bool, cache: Path | None = None) -> Finding:
    """can_fetch: there is a package client. cache: the cache's directory instead of the user's own."""
    try:
        version = cached_version(root=cache)
        reason = "is not in the cache"
    except ManorError as error:
        version = None
        reason = f"is not usable: {error}"
    facts = {"version": version}
    if version is not None:
        return Finding("default-guest", "ok", f"kernel {version} is in the cache", facts=facts)
    if can_fetch:
        text = f"the default guest {reason}; the first start fetches it"
        return Finding("default-guest", "note", text, "Fetch it while there is a network: manor run.", facts)
    return Finding("default-guest", "missing", f"the default guest {reason}", _OWN_KERNEL, facts)
