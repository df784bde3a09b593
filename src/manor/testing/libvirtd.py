"""A real libvirtd with its test driver, private to a test: a socket in a directory of ours, no privileges, no network.

It is what our client is measured against. As root it runs as `nobody`, so that it touches nothing of the host.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CONFIGURATION = """
listen_tls = 0
listen_tcp = 0
unix_sock_dir = "{directory}/run"
auth_unix_ro = "none"
auth_unix_rw = "none"
log_outputs = "4:stderr"
"""
NOBODY = 65534


def missing() -> str | None:
    """Why it cannot be started here, None if it can."""
    for program in ("libvirtd", "virsh"):
        if program_path(program) is None:
            return f"{program} is not installed"
    return None


def program_path(name: str) -> str | None:
    """Where a program is, in the directories of daemons as well."""
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


@contextmanager
def running_libvirtd() -> Iterator[Path]:
    """The daemon's socket."""
    program = program_path("libvirtd")
    assert program is not None
    # Not pytest's directory: its paths are too long for a socket, and only its owner may enter it.
    with tempfile.TemporaryDirectory(prefix="lvd-", dir="/tmp", ignore_cleanup_errors=True) as name:
        directory = Path(name)
        for part in ("run", "home"):
            (directory / part).mkdir()
        (directory / "libvirtd.conf").write_text(CONFIGURATION.format(directory=directory))
        user = None
        if os.geteuid() == 0:
            user = NOBODY
            for path in (directory, *directory.iterdir()):
                os.chown(path, NOBODY, NOBODY)
        home = str(directory / "home")
        environment = {
            "PATH": os.environ.get("PATH", ""), "HOME": home, "XDG_RUNTIME_DIR": str(directory / "run"),
            "XDG_CONFIG_HOME": home, "XDG_CACHE_HOME": home, "XDG_STATE_HOME": home, "XDG_DATA_HOME": home,
        }  # fmt: skip
        process = subprocess.Popen(
            [program, "-f", str(directory / "libvirtd.conf"), "-p", str(directory / "pid")],
            env=environment, cwd=directory, user=user, group=user, extra_groups=[] if user else None,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip
        try:
            yield _wait_socket(directory / "run" / "libvirt-sock", process)
        finally:
            process.terminate()
            try:
                process.communicate(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()


def _wait_socket(path: Path, process: subprocess.Popen[bytes]) -> Path:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if path.exists():
            return path
        if process.poll() is not None:
            assert process.stderr is not None
            raise RuntimeError(f"libvirtd ended: {process.stderr.read()[-2000:]!r}")
        time.sleep(0.02)
    raise RuntimeError("libvirtd does not listen")
