"""Network interfaces and forwarded ports as text: `KIND[:NAME][,OPTION=VALUE...]` and `[ADDRESS:]HOST:GUEST[/udp]`."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from manor.base.errors import ConfigError
from manor.spec.check_net import check_forward, check_nic
from manor.spec.net import NIC_KINDS, NicSpec, PortForward, Shaping

_RATE: Final = re.compile(r"(\d+(?:\.\d+)?)([kKmMgG]?)(?:bit)?")
_RATE_UNITS: Final = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}
_TIME: Final = re.compile(r"(\d+(?:\.\d+)?)(ns|us|ms|s)")
_TIME_UNITS: Final = {"ns": 1, "us": 10**3, "ms": 10**6, "s": 10**9}
_LOSS: Final = re.compile(r"(\d+(?:\.\d+)?)(%?)")
_PORT: Final = re.compile(r"(?:(?P<address>\[[^\]]*\]|[^:\[\]]*):)?(?P<host>\d+):(?P<guest>\d+)(?:/(?P<protocol>\w+))?")


def parse_nic(text: str) -> NicSpec:
    """The interface that `text` asks for, checked. Raises ConfigError."""
    head, *options = text.split(",")
    kind, colon, name = head.partition(":")
    if kind not in NIC_KINDS:
        raise ConfigError("net", f"{kind!r} is no kind of network; give one of {', '.join(NIC_KINDS)}")
    if colon and not name:
        raise ConfigError("net", f"a name is missing behind {head!r}")
    values: dict[str, Any] = {}
    shaping: dict[str, Any] = {}
    for option in options:
        key, equals, value = option.partition("=")
        if not equals or key not in _OPTIONS:
            raise ConfigError("net", f"{option!r} is unknown; options are {', '.join(f'{name}=' for name in _OPTIONS)}")
        field, convert = _OPTIONS[key]
        target = shaping if key in _SHAPING else values
        if field in target:
            raise ConfigError("net", f"{key}= is given twice")
        target[field] = convert(key, value)
    nic = NicSpec(kind=kind, name=name, shaping=Shaping(**shaping), **values)  # type: ignore[arg-type]
    check_nic(nic, "net")
    return nic


def parse_port(text: str) -> PortForward:
    """The forwarded port that `text` asks for, checked. Raises ConfigError."""
    found = _PORT.fullmatch(text)
    if found is None:
        raise ConfigError("port", f"{text!r} is not HOST:GUEST or ADDRESS:HOST:GUEST, with /udp if it is UDP")
    address = (found["address"] or "").strip("[]")
    if address:
        try:
            ipaddress.ip_address(address)
        except ValueError as error:
            raise ConfigError(
                "port", f"{address!r} is not an address of the host; give for example 127.0.0.1"
            ) from error
    forward = PortForward(
        protocol=(found["protocol"] or "tcp"),  # type: ignore[arg-type]
        host_port=int(found["host"]),
        guest_port=int(found["guest"]),
        host_address=address,
    )
    check_forward(forward, "port")
    return forward


def parse_rate(key: str, value: str) -> int:
    """Bits a second: 10M, 1.5Gbit, 64k."""
    found = _RATE.fullmatch(value)
    if found is None:
        raise ConfigError("net", f"{key}={value} is not a rate; give bits a second, for example {key}=10M")
    return int(float(found[1]) * _RATE_UNITS[found[2].lower()])


def parse_time(key: str, value: str) -> int:
    """Nanoseconds: 20ms, 1.5s, 300us."""
    found = _TIME.fullmatch(value)
    if found is None:
        raise ConfigError("net", f"{key}={value} is not a time; give for example {key}=20ms")
    return int(float(found[1]) * _TIME_UNITS[found[2]])


def parse_loss(key: str, value: str) -> float:
    """A share: 1%, 0.01."""
    found = _LOSS.fullmatch(value)
    if found is None:
        raise ConfigError("net", f"{key}={value} is not a share of the frames; give for example {key}=1%")
    return float(found[1]) / (100 if found[2] else 1)


def _number(key: str, value: str) -> int:
    if not value.isascii() or not value.isdigit():
        raise ConfigError("net", f"{key}={value} is not a whole number")
    return int(value)


def _text(key: str, value: str) -> str:
    if not value:
        raise ConfigError("net", f"a value is missing behind {key}=")
    return value


def _path(key: str, value: str) -> Path:
    return Path(_text(key, value))


def _switch(key: str, value: str) -> bool:
    if value not in ("on", "off"):
        raise ConfigError("net", f"{key}={value} is neither on nor off")
    return value == "on"


_SHAPING: Final = ("rate", "delay", "jitter", "loss")
_OPTIONS: Final[dict[str, tuple[str, Callable[[str, str], Any]]]] = {
    "mac": ("mac", _text),
    "mtu": ("mtu", _number),
    "queues": ("queues", _number),
    "reach": ("reach", _text),
    "hostname": ("hostname", _text),
    "capture": ("capture", _path),
    "rate": ("bits_per_second", parse_rate),
    "delay": ("delay", parse_time),
    "jitter": ("jitter", parse_time),
    "loss": ("loss", parse_loss),
    "link": ("link_up", _switch),
    "id": ("id", _text),
}
"""Option -> field of NicSpec or Shaping, and what turns its text into a value."""
