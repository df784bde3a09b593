"""The real virt-manager on a display of its own: its windows, a real guest's life through its buttons, its console."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from manor.base.errors import ConfigError, HostError
from manor.guests.default import default_guest
from manor.guests.progress import Silent
from manor.testing.daemon import DaemonProcess

SESSION = Path(__file__).with_name("virt_manager_session.py")
SYSTEM_PYTHON = "/usr/bin/python3"
NEEDED = ("virt-manager", "Xvfb", "dbus-run-session", "import", "qemu-img")
STEPS = ["listed", "opened", "details", "started", "console", "paused", "shut_down", "no_complaint"]
pytestmark = [pytest.mark.slow, pytest.mark.guest]


@pytest.fixture
def display(place: Path) -> Iterator[str]:
    """A screen that nobody sees."""
    for name in NEEDED:
        if shutil.which(name) is None:
            pytest.skip(f"there is no {name} here (virt-manager, xvfb, dbus-daemon, imagemagick, qemu-utils)")
    check = "import gi; gi.require_version('Atspi', '2.0'); from gi.repository import Atspi"
    if subprocess.run([SYSTEM_PYTHON, "-c", check], check=False, capture_output=True).returncode:
        pytest.skip("the accessibility tree cannot be read here (gir1.2-atspi-2.0, at-spi2-core)")
    reader, writer = os.pipe()
    with subprocess.Popen(
        ["Xvfb", "-displayfd", str(writer), "-screen", "0", "1280x900x24", "-nolisten", "tcp"],
        pass_fds=(writer,), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    ) as server:  # fmt: skip
        os.close(writer)
        with os.fdopen(reader) as told:
            number = told.readline().strip()  # to the line's end: it dies of a pipe that is closed before
        try:
            if not number:
                pytest.skip("Xvfb does not start here")
            yield f":{number}"
        finally:
            server.terminate()


@pytest.fixture
def domain(daemon: DaemonProcess) -> str:
    try:
        guest = default_guest(Silent(), "cloud")
    except (ConfigError, HostError) as error:
        pytest.skip(f"the guest cannot be had: {error}")
    disk = daemon.root / "vm.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(disk), "64M"], check=True)
    path = daemon.root / "vm.xml"
    path.write_text(
        "<domain type='qemu'><name>vm</name><memory unit='MiB'>192</memory><os><type>hvm</type>"
        f"<kernel>{guest.kernel}</kernel><initrd>{guest.initrd}</initrd><cmdline>{guest.cmdline}</cmdline></os><devices>"
        f"<disk type='file'><driver name='qemu' type='qcow2'/><source file='{disk}'/><target dev='vda'/></disk>"
        "<interface type='network'><source network='default'/></interface><console type='pty'/></devices></domain>"
    )
    daemon.virsh("define", str(path))
    return "vm"


def test_a_guest_lives_through_virt_managers_buttons(
    daemon: DaemonProcess, domain: str, display: str, place: Path
) -> None:
    home = place / "home"
    (home / "run").mkdir(parents=True, mode=0o700)
    environment = {
        **os.environ, "DISPLAY": display, "HOME": str(home), "XDG_RUNTIME_DIR": str(home / "run"), "GDK_BACKEND": "x11",
        "LIBGL_ALWAYS_SOFTWARE": "1", "LC_ALL": "C.UTF-8", "URI": daemon.uri(), "DOMAIN": domain,
        "FOLDER": str(place), "SESSION": str(SESSION), "PYTHON": SYSTEM_PYTHON,
    }  # fmt: skip
    environment.pop("NO_AT_BRIDGE", None)
    script = (
        'virt-manager --no-fork --debug -c "$URI" > "$FOLDER/virt-manager.log" 2>&1 & manager=$!; '
        '"$PYTHON" "$SESSION" "$URI" "$DOMAIN" "$FOLDER"; kill $manager'
    )
    started = time.monotonic()
    done = subprocess.run(
        ["dbus-run-session", "--", "sh", "-c", script], env=environment, capture_output=True, text=True, timeout=400,
        check=False,
    )  # fmt: skip
    log = (place / "virt-manager.log").read_text(errors="replace")
    print(f"{time.monotonic() - started:.0f} s", file=sys.stderr)
    steps = [line for line in done.stdout.splitlines() if line.startswith(("ok: ", "failed: "))]
    assert steps == [f"ok: {step}" for step in STEPS], done.stdout + done.stderr + log[-4000:]
    assert "Traceback" not in log, log[-4000:]
    assert (place / "console.png").stat().st_size > 1000
