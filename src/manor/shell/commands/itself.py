"""The shell's own commands."""

from __future__ import annotations

import os
import re

from manor.shell.arguments import Arguments
from manor.shell.catalog import COMMANDS, GROUPS, in_group
from manor.shell.catalog.meanings import meaning
from manor.shell.declare import Command, Group, Kind
from manor.shell.errors import CommandError, Quit
from manor.shell.session import Session


def cd(session: Session, arguments: Arguments) -> None:
    """Change the directory."""
    if not session.is_interactive:
        raise CommandError("cd: command valid only in interactive mode")
    path = arguments.get("dir") or os.path.expanduser("~")
    try:
        os.chdir(path)
    except OSError as error:
        raise CommandError(f"cd: {path}: {error.strerror}") from None


def pwd(session: Session, arguments: Arguments) -> None:
    """Print the directory."""
    session.print(os.getcwd())


def echo(session: Session, arguments: Arguments) -> None:
    """Print words."""
    words = arguments.words("arg")
    if arguments.flag("xml"):
        words = [word.translate(_ENTITIES) for word in words]
    if arguments.flag("shell"):
        words = [_shell_quoted(word) for word in words]
    if arguments.flag("split"):
        words = [part for index, word in enumerate(words) for part in f"{' ' if index else ''}{word}".split(",")]
    text = ("\n" if arguments.flag("split") else " ").join(words)
    if arguments.flag("err"):
        session.report(CommandError(text))
    elif arguments.flag("split"):
        session.print(text)
    else:
        session.print(text, end="\n" if session.settings.is_quiet else "")


_ENTITIES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", "'": "&apos;", '"': "&quot;"})


def _shell_quoted(word: str) -> str:
    if word and not re.search(r"[^\w@%+=:,./-]", word, re.ASCII):
        return word
    return "'" + word.replace("'", "'\\''") + "'"


def quit_(session: Session, arguments: Arguments) -> None:
    """Leave."""
    raise Quit


exit_ = quit_


def connect(session: Session, arguments: Arguments) -> None:
    """Connect to another hypervisor, or again."""
    session.disconnect()
    session.settings.uri = arguments.get("name") or session.settings.uri
    session.settings.is_read_only = arguments.flag("readonly")
    assert session.link is not None


def help_(session: Session, arguments: Arguments) -> None:
    """Explain commands, a group, or one command."""
    name = arguments.get("command")
    if name is None:
        session.print("Grouped commands:\n")
        for group in GROUPS:
            _print_group(session, group)
            session.print()
        return
    command = COMMANDS.get(name)
    if command is not None:
        session.print(explain(command))
        return
    for group in GROUPS:
        if name.lower() in (group.keyword, group.title.lower()):
            _print_group(session, group)
            return
    raise CommandError(f"command or command group '{name}' doesn't exist")


def _print_group(session: Session, group: Group) -> None:
    session.print(f" {group.title} (help keyword '{group.keyword}'):")
    for command in in_group(group):
        session.print(f"    {command.name:<30} {command.summary}")


def explain(command: Command) -> str:
    """What `help` says about a command."""
    summary = command.summary[0].lower() + command.summary[1:]
    lines = ["  NAME", f"    {command.name} - {summary}", "", "  SYNOPSIS", f"    {command.synopsis}", ""]
    lines += ["  DESCRIPTION", f"    {command.summary}.", ""]
    if command.options:
        lines.append("  OPTIONS")
        for option in command.options:
            shown = f"--{option.name}"
            if option.kind is not Kind.FLAG:
                inner = f"[{shown}]" if option.is_required or option.kind is Kind.WORDS else shown
                shown = f"{inner} <{'number' if option.kind is Kind.NUMBER else 'string'}>"
            lines.append(f"    {shown:<15}  {meaning(command.name, option.name)}")
        lines.append("")
    return "\n".join(lines)
