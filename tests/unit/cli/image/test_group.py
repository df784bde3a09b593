"""`manor image` as a group: every command is there, with help and completion."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from manor.cli.image.group import COMMANDS
from manor.cli.main import manor


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_exists_and_has_help(name: str) -> None:
    result = CliRunner().invoke(manor, ["image", name, "--help"])
    assert result.exit_code == 0
    assert result.output.startswith(f"Usage: manor image {name} ")


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("manor image com", ["compare", "commit", "compact"]),
        ("manor image check --re", ["--repair"]),
        ("manor image check --repair ", ["leaks", "all"]),
        ("manor image convert -O ", ["raw", "qcow2"]),
        ("manor image info -f v", ["vmdk", "vdi", "vhdx", "vpc"]),
        ("manor image info --output ", ["human", "json"]),
    ],
)
def test_completion(typed: str, offered: list[str]) -> None:
    words = [*typed.split(), ""] if typed.endswith(" ") else typed.split()
    variables = {"_MANOR_COMPLETE": "bash_complete", "COMP_WORDS": typed, "COMP_CWORD": str(len(words) - 1)}
    result = CliRunner().invoke(manor, prog_name="manor", env=variables, complete_var="_MANOR_COMPLETE")
    assert sorted(line.removeprefix("plain,") for line in result.output.splitlines()) == sorted(offered)
