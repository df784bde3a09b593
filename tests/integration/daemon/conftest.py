"""A daemon for each test module, and what real clients need."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from manor.testing.daemon import DaemonProcess


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="mgd") as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def daemon(place: Path) -> Iterator[DaemonProcess]:
    if shutil.which("virsh") is None:
        pytest.skip("there is no virsh here (libvirt-clients)")
    made = DaemonProcess(place)
    made.start()
    yield made
    if made.process is not None and made.process.poll() is None:
        assert made.end() == 0
    assert "Traceback" not in made.log
