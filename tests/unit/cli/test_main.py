"""The `manor` program around its commands."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

import manor as package
from manor.base.errors import ConfigError
from manor.cli.main import COMMANDS, describe, main, manor
from manor.cli.progress import Bar, Lines, shown_progress
from manor.cli.statistics import text
from manor.guests.default import default_guest
from manor.guests.progress import Silent
from manor.vmm.vm import Statistics

USAGE = {"sh": "\nmanor sh [options]... [<command_string>]\n"}
"""What help begins with where it does not begin as click writes it: the shell's is in virsh's form."""


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_exists_and_has_help(name: str) -> None:
    result = CliRunner().invoke(manor, [name, "--help"])
    assert result.exit_code == 0
    assert USAGE.get(name, f"Usage: manor {name}") in result.output
    assert COMMANDS[name][1] in CliRunner().invoke(manor, ["--help"]).output


def test_version() -> None:
    assert CliRunner().invoke(manor, ["--version"]).output == f"manor {package.__version__}\n"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_script(shell: str) -> None:
    result = CliRunner().invoke(manor, ["completion", shell])
    assert result.exit_code == 0
    assert "_MANOR_COMPLETE" in result.output


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("manor run --accel ", ["auto", "dbt", "kvm"]),
        (
            "manor run --trace ",
            ["syscalls", "interrupts", "exits", "blocks", "disks", "network", "services", "guest-errors"],
        ),
        ("manor run --trace exits,s", ["exits,syscalls", "exits,services"]),
        ("manor run --console ", ["serial", "virtio"]),
        ("manor doctor --j", ["--json"]),
    ],
)
def test_completion_offers_the_values_of_options(typed: str, offered: list[str]) -> None:
    words = [*typed.split(), ""] if typed.endswith(" ") else typed.split()
    variables = {"_MANOR_COMPLETE": "bash_complete", "COMP_WORDS": typed, "COMP_CWORD": str(len(words) - 1)}
    result = CliRunner().invoke(manor, prog_name="manor", env=variables, complete_var="_MANOR_COMPLETE")
    assert [line.removeprefix("plain,") for line in result.output.splitlines()] == offered


def test_unknown_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["manor", "fly"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "No such command 'fly'" in capsys.readouterr().err


def test_no_package_client_does_not_blame_an_option_that_does_not_exist(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(ConfigError) as caught:
        default_guest(Silent())
    assert describe(caught.value).startswith("this machine has no apt")
    assert list(tmp_path.iterdir()) == []


def test_bar_shows_one_step_and_no_bytes_that_nobody_reported() -> None:
    bar = Bar()
    bar.step("downloading a")
    bar.advance(1 << 20, 2 << 20)
    bar.step("unpacking a")
    drawn = bar._bar_started()
    assert [(task.description, task.fields["amount"]) for task in drawn.tasks] == [("unpacking a", "")]
    bar.close()


def test_terminal_that_cannot_move_its_cursor_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    for term, kind in (("dumb", Lines), ("xterm", Bar)):
        monkeypatch.setenv("TERM", term)
        with shown_progress() as progress:
            assert isinstance(progress, kind)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_signal_while_fetching_leaves_no_scratch_files(tmp_path: Path, number: signal.Signals) -> None:
    tool = tmp_path / "apt-cache"
    tool.write_text("#!/bin/sh\nexec sleep 60\n")
    tool.chmod(0o755)
    (tmp_path / "apt-get").symlink_to(tool)
    cache = tmp_path / "cache"
    process = subprocess.Popen(
        [sys.executable, "-m", "manor", "run"], stderr=subprocess.DEVNULL,
        env={"PATH": f"{tmp_path}:/usr/bin:/bin", "XDG_CACHE_HOME": str(cache), "PYTHONPATH": ":".join(sys.path)},
    )  # fmt: skip
    limit = time.monotonic() + 30
    while not list(cache.glob("manor/scratch-*")) and time.monotonic() < limit:
        time.sleep(0.05)
    process.send_signal(number)
    assert process.wait(20) == 128 + number
    assert {path.name for path in (cache / "manor").iterdir()} <= {"lock", "kvm.json"}


def test_help_imports_no_machine_and_no_engine() -> None:
    code = (
        "import sys, manor.cli.main as m\n"
        "try: m.manor(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = [n for n in sys.modules if n.startswith(('manor.machine', 'manor.engine', 'manor.vmm.vm', 'rich'))]\n"
        "assert not heavy, heavy\n"
    )
    source = Path(__file__).resolve().parents[3] / "src"
    subprocess.run(
        [sys.executable, "-c", code], check=True, env={"PYTHONPATH": str(source)}, capture_output=True, timeout=20
    )


def test_statistics_are_aligned_and_sorted() -> None:
    statistics = Statistics(
        wall_ns=1_500_000_000, cpu_ns=250_000_000, halts=1234, wakeups=5, timers=3,
        accel={"guest_instructions": 1_000_000, "mips": 12.345, "translation_ns": 2_000_000},
        exits={"rtc": 2, "serial": 40},
    )  # fmt: skip
    lines = text(statistics).splitlines()
    assert lines[0] == "wall time           1.500 s"
    assert "guest instructions  1,000,000" in lines
    assert "mips                12.3" in lines
    assert "translation         0.002 s" in lines
    assert lines[-3:] == ["exits               42", "  serial            40", "  rtc               2"]
