"""The value of --cpus: how many vCPUs a VM begins with, and how many it may have."""

from __future__ import annotations

import re
from typing import Final

from manor.base.errors import ConfigError

_CPUS: Final = re.compile(r"(-?[0-9]{1,6})(,max=([0-9]{1,6}))?", re.ASCII)


def parse_cpus(text: str) -> tuple[int, int]:
    """The two numbers of `N[,max=M]`; without max, 0 for the second. Raises ConfigError."""
    found = _CPUS.fullmatch(text)
    if found is None:
        raise ConfigError("cpus", f"{text!r} is not a number of vCPUs; write N or N,max=M, like 2,max=4")
    return int(found[1]), int(found[3] or 0)
