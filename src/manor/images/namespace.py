"""A place where a program is root over nothing but its own files: namespaces of this machine's kernel.

Root itself needs only its own mounts; anybody else needs a user namespace with a range of subordinate ids, so that the
system in it has more users than one. Source: unshare(1), user_namespaces(7), subuid(5), newuidmap(1).
"""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import Final

from manor.base.errors import HostError

_TIMEOUT_S: Final = 30
_COMMON: Final = ("--mount", "--pid", "--fork", "--kill-child", "--net", "--ipc", "--uts")


def command() -> list[str]:
    """The words before a command that give it such a place, seen to work. Raises HostError, with what to change."""
    if shutil.which("unshare") is None:
        raise HostError("this machine has no unshare (package util-linux), in which packages are configured")
    words = ["unshare", *_COMMON]
    if os.geteuid() != 0:
        if shutil.which("newuidmap") is None:
            raise HostError("without root rights packages are configured with newuidmap; install the package uidmap")
        words += ["--user", "--map-root-user", "--map-auto"]
    try:
        done = subprocess.run(
            [*words, "true"], stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8", errors="replace",
            timeout=_TIMEOUT_S, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise HostError(f"unshare cannot be run: {error}") from error
    if done.returncode != 0:
        said = done.stderr.strip().splitlines()
        raise HostError(
            f"this machine allows no namespace to configure packages in ({said[-1] if said else 'unshare failed'}); "
            "allow user namespaces, and give this user subordinate ids in /etc/subuid and /etc/subgid"
        )
    return words
