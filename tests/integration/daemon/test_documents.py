"""What the documentation tells people to type is run: the tutorial's commands, the client library's examples."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from manor.base.errors import ConfigError, HostError
from manor.guests.default import default_guest
from manor.guests.progress import Silent
from manor.testing.daemon import DaemonProcess
from manor.testing.libvirtd import missing, running_libvirtd

DOCS = Path(__file__).resolve().parents[3] / "docs"
TUTORIAL = DOCS / "tutorials" / "a-domain-with-virsh.md"
HOWTO = DOCS / "howto" / "use-the-client-library.md"


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", path.read_text("utf-8"), re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def libvirtd() -> Iterator[str]:
    reason = missing()
    if reason is not None:
        pytest.skip(reason)
    with running_libvirtd() as path:
        yield f"test+unix:///default?socket={path}"


@pytest.mark.parametrize("number", range(len(blocks(HOWTO, "python"))))
@pytest.mark.parametrize("where", ["manord", "libvirtd"])
def test_an_example_of_the_client_library(number: int, where: str, request: pytest.FixtureRequest) -> None:
    if where == "manord":
        daemon: DaemonProcess = request.getfixturevalue("daemon")
        uri = daemon.uri("test", "/default")
    else:
        uri = request.getfixturevalue("libvirtd")
    example = blocks(HOWTO, "python")[number]
    done = subprocess.run(
        [sys.executable, "-c", f"URI = {uri!r}\n{example}"], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


@pytest.mark.slow
@pytest.mark.guest
def test_the_tutorial_from_nothing_to_a_domain_that_virsh_manages() -> None:
    if shutil.which("virsh") is None:
        pytest.skip("there is no virsh here (libvirt-clients)")
    try:
        default_guest(Silent())  # step 1
    except (ConfigError, HostError) as error:
        pytest.skip(f"the guest cannot be had: {error}")
    commands = blocks(TUTORIAL, "sh")
    assert len(commands) >= 9
    with tempfile.TemporaryDirectory(prefix="mtut") as folder:
        place = Path(folder)
        for name in ("run", "state", "config", "work"):
            (place / name).mkdir(mode=0o700)
        (place / "work" / ".venv").symlink_to(Path(sys.prefix))
        script = "set -e\nset -m\n" + "".join(f"echo '== {n}'\n{text}" for n, text in enumerate(commands, 1))
        environment = {
            **os.environ, "XDG_RUNTIME_DIR": str(place / "run"), "XDG_STATE_HOME": str(place / "state"),
            "XDG_CONFIG_HOME": str(place / "config"),
            "XDG_CACHE_HOME": os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache"), "LC_ALL": "C",
        }  # fmt: skip
        environment.pop("LIBVIRT_DEFAULT_URI", None)
        done = subprocess.run(
            ["bash", "-c", script], cwd=place / "work", env=environment, capture_output=True, text=True, timeout=300,
            check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        log = (place / "work" / "manord.log").read_text() if (place / "work" / "manord.log").exists() else ""
        try:
            assert done.returncode == 0, done.stdout[-3000:] + done.stderr + log[-2000:]
        finally:
            for lock in (place / "state").glob("**/run/*/lock"):
                subprocess.run(["kill", lock.read_text().strip()], check=False)
        assert "running (booted)" in done.stdout
        assert "paused (user)" in done.stdout
        assert '"name": "first"' in done.stdout
        assert "Domain 'first' has been undefined" in done.stdout
        assert not list((place / "work" / "disks").iterdir())
        assert "Traceback" not in log
