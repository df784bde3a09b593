"""The prompt: lines, history, completion."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from manor.base.errors import ManorError
from manor.shell import syntax
from manor.shell.catalog import COMMANDS, GROUPS
from manor.shell.declare import Command, Kind
from manor.shell.errors import CommandError, Quit, UsageError
from manor.shell.session import Session

if TYPE_CHECKING:
    from prompt_toolkit import PromptSession

WELCOME = """Welcome to the shell of Manor.

Type:  'help' for help with commands
       'quit' to quit
"""


def interact(session: Session) -> int:
    """Read commands and run them until the user leaves; the exit status."""
    session.is_interactive = True
    if not session.settings.is_quiet:
        session.print(WELCOME)
    read = _reader(session)
    while True:
        try:
            line = read()
        except EOFError:
            session.print()
            return 0
        except KeyboardInterrupt:
            continue
        try:
            commands = syntax.split(line)
            if commands:
                session.run(commands)
        except Quit:
            return 0
        except UsageError as error:
            session.report(error)


def prompt_text(session: Session) -> str:
    """`#` where changes are possible, `>` where they are not."""
    return "manor > " if session.settings.is_read_only else "manor # "


def _reader(session: Session) -> Callable[[], str]:
    if not (sys.stdin.isatty() and sys.stdout.isatty()) or os.environ.get("TERM") == "dumb":
        return lambda: input(prompt_text(session))
    try:
        editor = _editor(session)
    except ImportError:
        return lambda: input(prompt_text(session))
    return lambda: str(editor.prompt(prompt_text(session)))


def history_path() -> Path:
    """Where the lines typed are kept."""
    state = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return Path(state) / "manor" / "sh-history"


def _editor(session: Session) -> PromptSession[str]:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import CompleteEvent, Completer, Completion
    from prompt_toolkit.document import Document
    from prompt_toolkit.history import FileHistory, History, InMemoryHistory

    class ShellCompleter(Completer):
        def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterator[Completion]:
            text = document.text_before_cursor
            start = word_start(text)
            for word in complete(session, text):
                yield Completion(word, start - len(text))

    path = history_path()
    history: History = InMemoryHistory()
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        history = FileHistory(str(path))
    except OSError:
        pass  # the lines are remembered until the end only
    return PromptSession(completer=ShellCompleter(), history=history, complete_while_typing=False)


def word_start(text: str) -> int:
    """Where the word at the end of a line begins."""
    at = len(text)
    while at and not text[at - 1].isspace() and text[at - 1] != ";":
        at -= 1
    return at


def complete(session: Session, text: str) -> list[str]:
    """What the word at the end of a line may become."""
    start = word_start(text)
    begun = text[start:]
    try:
        commands = syntax.split(text[:start])
    except UsageError:
        return []
    is_first = not text[:start].strip() or text[:start].rstrip().endswith(";")
    if is_first:
        return [name for name in sorted(COMMANDS) if name.startswith(begun)]
    words = commands[-1]
    command = COMMANDS.get(words[0])
    if command is None:
        return []
    if begun.startswith("-"):
        seen = {word for word in words if word.startswith("--")}
        names = [f"--{option.name}" for option in command.options]
        return [name for name in names if name.startswith(begun) and name not in seen]
    option = _option_at(command, words[1:])
    return [] if option is None else [name for name in _values(session, command, option) if name.startswith(begun)]


def _option_at(command: Command, words: list[str]) -> str | None:
    """The option whose value comes next."""
    given: set[str] = set()
    waiting: str | None = None
    for word in words:
        if waiting is not None:
            waiting = None
        elif word.startswith("--"):
            name, equals, _ = word[2:].partition("=")
            option = command.option(name)
            if option is not None and option.kind is not Kind.FLAG:
                given.add(name)
                waiting = name if not equals else None
        else:
            given.add(next((o.name for o in command.options if o.kind is not Kind.FLAG and o.name not in given), ""))
    if waiting is not None:
        return waiting
    values = [option for option in command.options if option.kind is not Kind.FLAG]
    return next((o.name for o in values if o.kind is Kind.WORDS or o.name not in given), None)


_LISTS = {
    "domain": ("connect_list_all_domains", (1, 0)),
    "network": ("connect_list_all_networks", (1, 0)),
    "pool": ("connect_list_all_storage_pools", (1, 0)),
    "inputpool": ("connect_list_all_storage_pools", (1, 0)),
    "nwfilter": ("connect_list_all_nwfilters", (1, 0)),
}
"""Option -> the list that has its names."""


def _values(session: Session, command: Command, option: str) -> list[str]:
    if command.name == "help":
        return sorted([*COMMANDS, *(group.keyword for group in GROUPS)])
    if option in ("file", "xml", "dir", "xmlfile"):
        return []
    try:
        return sorted(_names(session, command, option))
    except (ManorError, CommandError):
        return []  # a daemon that cannot be asked completes nothing


def _names(session: Session, command: Command, option: str) -> list[str]:
    if option in _LISTS:
        procedure, arguments = _LISTS[option]
        return [str(item[0]) for item in session.call(procedure, *arguments)[0]]
    if option == "vol":
        pools = session.call("connect_list_all_storage_pools", 1, 2).pools
        return [
            str(volume[1]) for pool in pools for volume in session.call("storage_pool_list_all_volumes", pool, 1, 0)[0]
        ]
    if option in ("snapshotname", "from"):
        domains = session.call("connect_list_all_domains", 1, 0).domains
        lists = [session.call("domain_list_all_snapshots", domain, 1, 0).snapshots for domain in domains]
        return [str(item[0]) for found in lists for item in found]
    if option == "interface" and command.group == "interface":
        return [str(item[0]) for item in session.call("connect_list_all_interfaces", 1, 0).interfaces]
    if option == "event":
        from manor.shell.commands.events import DOMAIN_EVENTS

        return list(DOMAIN_EVENTS) if command.name == "event" else []
    return []
