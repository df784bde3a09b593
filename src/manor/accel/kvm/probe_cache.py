"""What was measured about this host's KVM, kept until the host's kernel changes or is started anew.

One small JSON file, `kvm.json`, in Manor's cache directory. It only saves time: a file that cannot be read or written
is no error. Source of the location: XDG Base Directory Specification 0.8 ($XDG_CACHE_HOME, else ~/.cache).
"""

from __future__ import annotations

import json
import os
import tempfile
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Final

from manor.accel.kvm.probe_guest import Measurement
from manor.base.host_boot import BOOT_ID

FORMAT: Final = 1
"""Change it when the measurement changes its meaning."""


def default_path() -> Path | None:
    """Where the cache of this user is; None if there is no home directory."""
    configured = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(configured):
        return Path(configured) / "manor" / "kvm.json"
    try:
        return Path.home() / ".cache" / "manor" / "kvm.json"
    except RuntimeError:
        return None


def host_key() -> list[str | int]:
    """What a measurement holds for: this kernel, since it was started."""
    system = os.uname()
    boot = ""
    with suppress(OSError):
        boot = BOOT_ID.read_text("ascii").strip()
    return [FORMAT, system.release, system.version, system.machine, boot]


def load(path: Path | None) -> Measurement | None:
    """The measurement that was stored for this host; None if there is none."""
    if path is None:
        return None
    try:
        stored = json.loads(path.read_text("utf-8"))
        if stored["host"] != host_key():
            return None
        measured = stored["measured"]
        return Measurement(
            runs=bool(measured["runs"]),
            mips=float(measured["mips"]),
            syscall_works=bool(measured["syscall_works"]),
            detail=str(measured["detail"]),
        )
    except (OSError, ValueError, TypeError, KeyError):
        return None


def store(path: Path | None, measurement: Measurement) -> None:
    """Keep `measurement` for this host."""
    if path is None:
        return
    text = json.dumps({"host": host_key(), "measured": asdict(measurement)})
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=path.name)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
            os.replace(name, path)
        except OSError:
            os.unlink(name)
