"""Check an image's own structures, and repair them."""

from __future__ import annotations

from manor.backends.block.check_result import CheckResult, Repair
from manor.backends.block.file import open_file
from manor.backends.block.open import probe_file
from manor.backends.block.operations.progress import Progress, silent
from manor.base.errors import ConfigError

__all__ = ["CheckResult", "Repair", "check"]


def check(
    path: str,
    *,
    format: str | None = None,
    repair: Repair = "none",
    force_share: bool = False,
    progress: Progress = silent,
) -> CheckResult:
    """Check `path` (not its backing images). ConfigError for a format without structures to check, such as raw.

    repair: "leaks" frees what nothing uses; "all" also makes reference counts and flags agree with the tables. What
    cannot be repaired without guessing is counted and left. force_share: look while somebody writes; what is found
    then may be a change on its way.
    """
    from manor.backends.block.qcow2.check import check_file
    from manor.backends.block.qcow2.header import read_header

    file = open_file(path, read_only=repair == "none", force_share=force_share)
    try:
        found = format or probe_file(file)
        if found != "qcow2":
            raise ConfigError(path, f"a {found} image has no structures of its own that could be checked; qcow2 has")
        return check_file(file, read_header(file), repair, progress)
    finally:
        file.close()
