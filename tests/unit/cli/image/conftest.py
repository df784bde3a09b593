"""A folder for each test, `manor image` as a function, and a chain of images."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from manor.cli.main import main
from tests.unit.cli.image.programs import Ended, Run, qemu, write


@pytest.fixture(autouse=True)
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """In a folder of its own, so that names are short and the same in both programs."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def manor(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs `manor image WORDS` as the program does."""

    def run(*words: object) -> Ended:
        monkeypatch.setattr(sys, "argv", ["manor", "image", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        found = capsys.readouterr()
        status = ended.value.code
        assert isinstance(status, int)
        return Ended(status, found.out, found.err)

    return run


@pytest.fixture
def chain() -> None:
    """top.qcow2 with a snapshot, over base.qcow2: data, zeros and holes in both."""
    assert qemu("create", "-q", "-f", "qcow2", "base.qcow2", "64M").status == 0
    write("base.qcow2", "write -P 1 0 1M", "write -z 3M 1M", "write -P 2 20M 192k")
    assert qemu("create", "-q", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", "top.qcow2").status == 0
    write("top.qcow2", "write -P 3 5M 128k", "write -z 20M 64k")
    assert qemu("snapshot", "-c", "before", "top.qcow2").status == 0
    write("top.qcow2", "write -P 4 40M 64k")
