"""The prompt: lines, history, completion."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from manor.shell import syntax
from manor.shell.completion import complete, word_start
from manor.shell.errors import Quit, UsageError
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
