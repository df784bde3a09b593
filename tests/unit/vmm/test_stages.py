"""How far a guest has come, by what it prints."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manor.vmm.stages import STAGES, TAIL_LINES, StageTracker

BOOT = """\
[    0.000000] Linux version 6.1.0-50-cloud-amd64 (debian-kernel@lists.debian.org)\r
[    0.000000] Command line: console=ttyS0\r
[    1.400000] Run /init as init process\r
Loading, please wait...\r
Begin: Running /scripts/init-bottom ... done.\r
[    2.000000] systemd[1]: Inserted module 'autofs4'\r
[\x1b[0;32m  OK  \x1b[0m] Created slice \x1b[0;1;39mslice Slice /system/getty\x1b[0m.\r
         Starting \x1b[0;1;39mLoad Kernel Module\x1b[0m...\r
[\x1b[0;32m  OK  \x1b[0m] Started \x1b[0;1;39mDispatch Password\x1b[0m.\r
[    9.000000] cloud-init[311]: Cloud-init v. 22.4.2 running 'init' at Mon, 02 Jan 2023. Up 9 seconds.\r
[\x1b[0;32m  OK  \x1b[0m] Reached target \x1b[0;1;39mMulti-User System\x1b[0m.\r
\r
Debian GNU/Linux 12 box ttyS0\r
\r
box login: """


def follow(text: str, size: int) -> list[str]:
    """The stages that are shown, each once."""
    tracker = StageTracker()
    shown = [str(tracker.stage)]
    data = text.encode()
    for start in range(0, len(data), size):
        if tracker.feed(data[start : start + size]):
            shown.append(str(tracker.stage))
    return shown


@pytest.mark.parametrize("size", [1, 7])
def test_debian_passes_all_stages(size: int) -> None:
    assert follow(BOOT, size) == [
        "start", "kernel", "initrd", "systemd", "systemd: 1 units", "systemd: 2 units",
        "cloud-init (systemd: 2 units)", "cloud-init (systemd: 3 units)", "login",
    ]  # fmt: skip


def test_cloud_init_is_done_when_it_says_so() -> None:
    tracker = StageTracker()
    tracker.feed(BOOT.encode())
    assert tracker.stage.cloud_init == "running"
    tracker.feed(b"[   20.1] cloud-init[400]: Cloud-init v. 22.4.2 finished at Mon, 02 Jan 2023. Datasource x\r\n")
    assert (tracker.stage.name, tracker.stage.cloud_init) == ("login", "done")


def test_reboot_begins_anew() -> None:
    tracker = StageTracker()
    tracker.feed(BOOT.encode() + b"root\r\n[    0.000000] Linux version 6.1.0\r\n")
    assert str(tracker.stage) == "kernel"


@pytest.mark.parametrize("line", ["the login: prompt is late\n", "[ OK ] ok\n", "# a comment\n", "5 # \n"])
def test_words_inside_lines_are_no_stage(line: str) -> None:
    tracker = StageTracker()
    tracker.feed(line.encode())
    assert tracker.stage.name != "login"


def test_shell_prompt_counts_as_login() -> None:
    tracker = StageTracker()
    tracker.feed(b"\x1b[1;31mmanor:~# ")
    assert tracker.stage.name == "login"


def test_kernel_that_prints_into_the_prompt_does_not_hide_it() -> None:
    tracker = StageTracker()
    tracker.feed(b"box login: [   41.123456] random: crng init done\n")
    assert tracker.stage.name == "login"


def test_tail_has_the_last_lines_without_colours() -> None:
    tracker = StageTracker()
    tracker.feed(b"".join(b"line %d\r\n" % number for number in range(100)) + b"\x1b[31mred\x1b[0m")
    assert tracker.tail() == [*(f"line {number}" for number in range(100 - TAIL_LINES, 100)), "red"]


@settings(deadline=None)
@given(st.lists(st.binary(max_size=200), max_size=20))
def test_any_bytes_give_a_stage_and_bounded_memory(pieces: list[bytes]) -> None:
    tracker = StageTracker()
    for piece in pieces:
        tracker.feed(piece)
    assert tracker.stage.name in STAGES
    assert len(tracker.tail()) <= TAIL_LINES + 1
    assert len(tracker._line) <= 1024
