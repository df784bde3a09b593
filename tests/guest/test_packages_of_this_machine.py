"""The default guest from the packages of the machine that runs the tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from manor.base.address import Gpa
from manor.base.units import MiB
from manor.boot.linux_x86 import load_linux
from manor.guests.default import default_guest
from manor.guests.packages import AptClient
from manor.guests.progress import Silent
from manor.mem.guest_memory import GuestMemory, Region


@pytest.mark.guest
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("variant", ["cloud", "generic"])
def test_fetch_and_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variant: str) -> None:
    if not AptClient.is_present():
        pytest.skip("no apt on this machine")
    guest = default_guest(Silent(), "cloud" if variant == "cloud" else "generic", root=tmp_path)
    memory = GuestMemory([Region(Gpa(0), 256 * MiB)])
    booted = load_linux(memory, guest.kernel, guest.initrd, guest.cmdline, None)
    assert booted.protocol == "linux64"
    assert load_linux(memory, guest.kernel, guest.initrd, guest.cmdline, None, protocol="pvh").protocol == "pvh"
    monkeypatch.setenv("PATH", "/nonexistent")
    assert default_guest(Silent(), "cloud" if variant == "cloud" else "generic", root=tmp_path) == guest
