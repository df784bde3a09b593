"""Every command has its function, and the function asks for every option that the command declares."""

from __future__ import annotations

import importlib
import inspect
import re

import pytest

from manor.shell.catalog import COMMANDS, GROUPS, in_group
from manor.shell.commands.itself import explain
from manor.shell.declare import Command

SHOWN = {"xpath", "wrap"}  # `documents.show` asks for them
AFFECTED = {"live", "config", "current"}  # `Arguments.affect` asks for them


@pytest.mark.parametrize("command", COMMANDS.values(), ids=list(COMMANDS))
def test_every_command_has_a_function_and_help(command: Command) -> None:
    function = getattr(importlib.import_module(command.module), command.function)
    assert list(inspect.signature(function).parameters) == ["session", "arguments"]
    assert command.synopsis in explain(command)
    assert command.summary


@pytest.mark.parametrize("command", COMMANDS.values(), ids=list(COMMANDS))
def test_every_option_is_asked_for(command: Command) -> None:
    module = importlib.import_module(command.module)
    source = inspect.getsource(module)
    imported = [
        inspect.getsource(value)
        for value in vars(module).values()
        if inspect.isfunction(value) and value.__module__.startswith("manor.shell")
    ]
    words = set(re.findall(r"[\w-]+", source + "\n".join(imported)))
    for option in command.options:
        if option.name in SHOWN | AFFECTED or re.search(r"-(bytes|iops)-sec(-max|-max-length)?$", option.name):
            continue
        assert words & {option.name, option.name.replace("-", "_")}, f"--{option.name} does nothing"


def test_every_group_has_commands() -> None:
    assert {command.group for command in COMMANDS.values()} == {group.keyword for group in GROUPS}
    assert all(in_group(group) for group in GROUPS)
