"""A process in the background, and what it tells who started it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

PROGRAM = """
import os, sys, time
from pathlib import Path
from manor.base.errors import ConfigError
from manor.instances.detach import Exited, detach, run_detached
folder = Path(sys.argv[2])

def work():
    {work}

try:
    report = detach()
except Exited as error:
    sys.exit(error.status)
except Exception as error:
    print(type(error).__name__, error)
    sys.exit(9)
if report is not None:
    run_detached(report, work)
print("started")
"""


def run(tmp_path: Path, work: str) -> subprocess.CompletedProcess[str]:
    source = Path(__file__).resolve().parents[3] / "src"
    code = PROGRAM.format(work=work)
    return subprocess.run(
        [sys.executable, "-c", code, "x", str(tmp_path)], env={"PYTHONPATH": str(source)}, capture_output=True,
        text=True, timeout=20,
    )  # fmt: skip


def test_command_returns_when_it_runs_and_it_runs_on(tmp_path: Path) -> None:
    began = time.monotonic()
    done = run(
        tmp_path,
        "report.running(folder / 'log'); print('lost'); time.sleep(1); sys.stderr.write('said'); sys.stderr.flush();"
        "(folder / 'session').write_text(f'{os.getsid(0)} {os.getpid()} {os.getppid()}'); return 0",
    )
    assert (done.stdout, done.stderr, done.returncode) == ("started\n", "", 0)
    assert not (tmp_path / "session").exists()
    while not (tmp_path / "session").exists() or not (tmp_path / "session").read_text():
        assert time.monotonic() - began < 15
        time.sleep(0.02)
    session, pid, parent = (tmp_path / "session").read_text().split()
    assert session not in (pid, str(os.getsid(0)))
    assert parent != str(os.getpid())
    assert (tmp_path / "log").read_text() == "said"


@pytest.mark.parametrize(
    ("work", "said", "status"),
    [
        ("raise ConfigError('size', 'too large')", "ConfigError size: too large\n", 9),
        ("sys.stderr.write('usage'); return 2", "", 2),
        ("sys.exit(3)", "", 3),
        ("1 / 0", "InternalError the VM's process failed; what it said is above, or in the VM's vmm.log\n", 9),
        ("os.kill(os.getpid(), 9)", "HostError the VM's process was ended before the VM ran\n", 9),
    ],
)
def test_failure_is_the_commands_own(tmp_path: Path, work: str, said: str, status: int) -> None:
    done = run(tmp_path, work)
    assert (done.stdout, done.returncode) == (said, status)
    assert ("ZeroDivisionError" in done.stderr) is ("1 / 0" in work)
