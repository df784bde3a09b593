"""Which start of the host this is."""

from __future__ import annotations

from pathlib import Path
from typing import Final

BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
"""A file with one text for each start of the host.

Source: Linux, Documentation/admin-guide/sysctl/kernel.rst, "random".
"""
