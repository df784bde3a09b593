"""`manor doctor`: its text, JSON, colours and exit status. The findings are made up."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from manor.cli.doctor import COLOURS, text
from manor.cli.main import main
from manor.host.finding import JUDGEMENTS, Finding

FINE = [
    Finding("kvm-device", "ok", "/dev/kvm is there", facts={"exists": True}),
    Finding("kvm", "note", "it is emulated", "Use another host."),
    Finding("packages", "missing", "there is no apt"),
]
PROBLEM = Finding("accelerator", "problem", "nothing runs guests", "Build the native parts: make setup.")


def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], findings: list[Finding], *options: str
) -> tuple[str, object]:
    monkeypatch.setattr("manor.host.examine.examine", lambda: findings)
    monkeypatch.setattr(sys, "argv", ["manor", "doctor", *options])
    with pytest.raises(SystemExit) as ended:
        main()
    return capsys.readouterr().out, ended.value.code


def test_text_has_a_line_for_each_finding_and_fix(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output, status = run(monkeypatch, capsys, FINE)
    assert output.splitlines() == [
        "ok       kvm-device  /dev/kvm is there",
        "note     kvm         it is emulated",
        "                     fix: Use another host.",
        "missing  packages    there is no apt",
        "",
        "Guests run here.",
    ]
    assert status == 0


def test_problem_is_status_1_and_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    output, status = run(monkeypatch, capsys, [*FINE, PROBLEM])
    assert output.splitlines()[-1] == "No guest runs here; see: accelerator."
    assert status == 1


@pytest.mark.parametrize(("findings", "status"), [(FINE, 0), ([*FINE, PROBLEM], 1)])
def test_json(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], findings: list[Finding], status: int
) -> None:
    output, ended = run(monkeypatch, capsys, findings, "--json")
    report = json.loads(output)
    assert (report["can_run"], ended) == (status == 0, status)
    assert report["findings"][0] == {
        "topic": "kvm-device", "verdict": "ok", "text": "/dev/kvm is there", "fix": None, "facts": {"exists": True},
    }  # fmt: skip
    assert report["findings"][1]["fix"] == "Use another host."


def test_unknown_option_is_status_2(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, capsys, FINE, "--fix")[1] == 2


def test_every_verdict_has_its_colour() -> None:
    assert set(COLOURS) == set(JUDGEMENTS)
    assert "\x1b[31mproblem\x1b[0m" in text([PROBLEM])


@pytest.mark.parametrize(("no_color", "coloured"), [("", True), ("1", False)])
def test_colours_only_where_they_are_wanted(monkeypatch: pytest.MonkeyPatch, no_color: str, coloured: bool) -> None:
    from manor.cli.doctor import doctor

    monkeypatch.setattr("manor.host.examine.examine", lambda: FINE)
    # color=True is what click does on a terminal.
    result = CliRunner().invoke(doctor, [], color=True, env={"NO_COLOR": no_color}, standalone_mode=False)
    assert ("\x1b[" in result.output) is coloured
    assert "\x1b[" not in CliRunner().invoke(doctor, [], standalone_mode=False).output


def test_real_host_is_looked_at_without_machine_and_progress(tmp_path: Path) -> None:
    code = (
        "import sys, manor.cli.main as m\n"
        "m.manor(['doctor', '--json'], standalone_mode=False)\n"
        "heavy = [n for n in sys.modules if n.startswith(('manor.machine', 'manor.devices', 'manor.vmm.vm', 'rich',"
        " 'llvmlite'))]\n"
        "assert not heavy, heavy\n"
    )
    source = Path(__file__).resolve().parents[3] / "src"
    done = subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        env={"PYTHONPATH": str(source), "XDG_CACHE_HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        timeout=60,
    )
    assert json.loads(done.stdout)["findings"][0]["topic"] == "system"
