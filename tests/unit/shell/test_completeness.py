"""Every command has its function, and the function asks for every option that the command declares."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from manor.base.errors import ManorError
from manor.shell import syntax
from manor.shell.arguments import bind
from manor.shell.catalog import COMMANDS, GROUPS, find, in_group
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


TESTS = Path(__file__).resolve().parents[2]
TRANSCRIPTS = ("integration/daemon/transcript.txt", "integration/test_shell_transcript.txt")
ELSEWHERE = "unit/shell/test_options.py"
"""Runs what no transcript can: terminals, two daemons."""
SERVICES = "unit/shell/test_services.py"
"""Runs what virsh does not have."""
COMMANDS_ELSEWHERE = ("console", "create", "start", "connect", "secret-set-value", "migrate")


def used_in_transcripts() -> Iterator[tuple[str, str]]:
    """(command, option) of every command that can be run; an option may be given by its place."""
    for name in TRANSCRIPTS:
        for text in (TESTS / name).read_text("utf-8").splitlines():
            if not text or text.startswith("#"):
                continue
            words = shlex.split(text)
            while re.match(r"[A-Z]+=", words[0]):
                del words[0]
            for command in syntax.split(text) if "; " in text else [words]:
                try:
                    arguments = bind(find(command[0]), command[1:])
                except ManorError:
                    continue  # a mistake that a transcript shows
                yield command[0], ""
                yield from ((command[0], option) for option in arguments.given)


def used_in_services() -> Iterator[tuple[str, str]]:
    """The same of commands that virsh does not have: the words that the tests of those give to the shell."""
    for call in ast.walk(ast.parse((TESTS / SERVICES).read_text("utf-8"))):
        if not isinstance(call, ast.Call) or ast.unparse(call.func) not in ("shell", "shell.json"):
            continue
        words = [str(word.value) if isinstance(word, ast.Constant) else "1" for word in call.args]
        while words and words[0].startswith("-"):
            del words[0]  # an option of the shell itself
        if words and words[0] in COMMANDS:
            try:
                arguments = bind(find(words[0]), words[1:])
            except ManorError:
                continue  # a mistake that is meant
            yield words[0], ""
            yield from ((words[0], option) for option in arguments.given)


def test_every_option_of_every_command_is_run_by_a_test() -> None:
    used = {*used_in_transcripts(), *used_in_services()}
    text = (TESTS / ELSEWHERE).read_text("utf-8")
    used |= {
        (name, option.name)
        for name in COMMANDS_ELSEWHERE
        for option in COMMANDS[name].options
        if f'"--{option.name}"' in text or f" --{option.name}" in text
    }
    assert [name for name in COMMANDS if (name, "") not in used and name not in COMMANDS_ELSEWHERE] == []
    missing = [
        f"{command.name} --{option.name}"
        for command in COMMANDS.values()
        for option in command.options
        if (command.name, option.name) not in used
    ]
    assert missing == []
