"""`--net`, `--no-net`, `--port` and `--outside`: the network interfaces that they ask for together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from manor.base.errors import ConfigError
from manor.spec.check_net import check_nics
from manor.spec.net import NicSpec, Reach
from manor.spec.net_text import parse_nic, parse_port

OUTSIDE: Final[dict[str, Reach]] = {"open": "all", "host": "host", "closed": "none"}
"""What `--outside` accepts -> the reach of user-mode interfaces."""


def choose_nics(nets: Sequence[str], no_net: bool, ports: Sequence[str], outside: str | None) -> tuple[NicSpec, ...]:
    """The interfaces, checked; without any option one in user mode. Raises ConfigError, naming the option."""
    if no_net:
        for option, given in (("net", nets), ("port", ports)):
            if given:
                raise ConfigError("no-net", f"it contradicts --{option}; give one of them")
        return ()
    nets = nets or ["user"]
    nics = [parse_nic(text) for text in nets]
    if outside is not None:
        nics = [
            replace(nic, reach=OUTSIDE[outside]) if nic.kind == "user" and "reach=" not in text else nic
            for nic, text in zip(nics, nets, strict=True)
        ]
    forwards = tuple(parse_port(text) for text in ports)
    if forwards:
        for index, nic in enumerate(nics):
            if nic.kind == "user":
                nics[index] = replace(nic, forwards=forwards)
                break
        else:
            raise ConfigError("port", "it needs a user-mode interface; add --net user")
    check_nics(nics)
    return tuple(nics)
