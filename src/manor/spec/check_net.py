"""Checks of a VM's network interfaces before anything starts. Every error names the field and says what to do."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from manor.base.errors import ConfigError
from manor.spec.mac import parse_mac
from manor.spec.net import NIC_KINDS, REACHES, NicSpec, PortForward

MAX_NICS: Final = 16
MAX_QUEUE_PAIRS: Final = 16
MIN_MTU: Final = 1280
"""What IPv6 needs. Source: RFC 8200, 5."""
MAX_MTU: Final = 65521
"""An Ethernet header and this make 65535 bytes, and offsets in offload headers have 16 bits."""
_INTERFACE: Final = re.compile(r"[^\s/:]{1,15}")
"""Linux's rule for names of interfaces (IFNAMSIZ is 16 with the end mark)."""
_NETWORK: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}")
_HOSTNAME: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?")
"""RFC 1123, 2.1."""
_INTERFACE_KINDS: Final = ("tap", "bridge", "macvtap")


def check_nics(nics: Sequence[NicSpec]) -> None:
    """Raise ConfigError for the first thing that is wrong."""
    if len(nics) > MAX_NICS:
        raise ConfigError("net", f"{len(nics)} interfaces are too many; give at most {MAX_NICS}")
    macs: set[bytes] = set()
    for index, nic in enumerate(nics):
        check_nic(nic, f"nics[{index}]")
        if nic.mac:
            mac = parse_mac(nic.mac)
            if mac in macs:
                raise ConfigError("net", f"two interfaces have the MAC address {nic.mac}; give each its own")
            macs.add(mac)


def check_nic(nic: NicSpec, where: str) -> None:
    """As `check_nics`, for one interface that errors call `where`."""
    if nic.kind not in NIC_KINDS:
        raise ConfigError(where, f"{nic.kind!r} is no kind of network; give one of {', '.join(NIC_KINDS)}")
    if nic.kind in _INTERFACE_KINDS:
        what = {"tap": "tap0", "bridge": "br0", "macvtap": "eth0"}[nic.kind]
        if not _INTERFACE.fullmatch(nic.name) or nic.name in (".", ".."):
            raise ConfigError(
                where, f"{nic.name!r} is not the name of an interface; write for example {nic.kind}:{what}"
            )
    elif nic.kind == "isolated":
        if not _NETWORK.fullmatch(nic.name):
            raise ConfigError(
                where,
                f"{nic.name!r} is not a name for an isolated network; write for example isolated:lab, with letters, "
                "digits, '-', '_' and '.', at most 63",
            )
    elif nic.name:
        raise ConfigError(where, f"{nic.kind} takes no name; leave out {nic.name!r}")
    if nic.mac:
        try:
            parse_mac(nic.mac)
        except ValueError as error:
            raise ConfigError(where, str(error)) from error
    if not MIN_MTU <= nic.mtu <= MAX_MTU:
        raise ConfigError(where, f"mtu={nic.mtu} does not work; give {MIN_MTU} (which IPv6 needs) to {MAX_MTU}")
    if not 0 <= nic.queues <= MAX_QUEUE_PAIRS:
        raise ConfigError(where, f"queues={nic.queues} does not work; give 1 to {MAX_QUEUE_PAIRS}, or 0 for one a vCPU")
    if nic.reach not in REACHES:
        raise ConfigError(where, f"reach={nic.reach} is unknown; give one of {', '.join(REACHES)}")
    if nic.hostname and not _HOSTNAME.fullmatch(nic.hostname):
        raise ConfigError(where, f"hostname={nic.hostname} is none; use letters, digits and '-', at most 63")
    if nic.kind != "user":
        if nic.forwards:
            raise ConfigError(where, f"ports are forwarded by the user-mode network only, not by {nic.kind}")
        if nic.reach != "all":
            raise ConfigError(
                where, f"reach belongs to the user-mode network; {nic.kind} reaches what it is connected to"
            )
    _check_shaping(nic, where)
    for forward in nic.forwards:
        check_forward(forward, where)


def check_forward(forward: PortForward, where: str) -> None:
    """As `check_nics`, for one forwarded port."""
    if forward.protocol not in ("tcp", "udp"):
        raise ConfigError(where, f"{forward.protocol!r} cannot be forwarded; give tcp or udp")
    if not 0 <= forward.host_port <= 65535:
        raise ConfigError(
            where, f"{forward.host_port} is not a port of the host; give 1 to 65535, or 0 to have one chosen"
        )
    if not 1 <= forward.guest_port <= 65535:
        raise ConfigError(where, f"{forward.guest_port} is not a port of the guest; give 1 to 65535")


def _check_shaping(nic: NicSpec, where: str) -> None:
    shaping = nic.shaping
    if shaping.bits_per_second < 0 or 0 < shaping.bits_per_second < 8000:
        raise ConfigError(
            where, f"rate={shaping.bits_per_second} bit/s is too little; give at least 8k, or 0 for no limit"
        )
    if shaping.delay < 0 or shaping.jitter < 0 or max(shaping.delay, shaping.jitter) > 60 * 10**9:
        raise ConfigError(where, "delay and jitter are 0 to 60 s, for example delay=20ms")
    if shaping.jitter > shaping.delay:
        raise ConfigError(where, "jitter cannot be more than delay: frames do not arrive before they are sent")
    if not 0 <= shaping.loss <= 1:
        raise ConfigError(where, f"loss={shaping.loss} is not a share of the frames; give 0% to 100%")
