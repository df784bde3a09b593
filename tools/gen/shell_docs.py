"""The reference of `manor sh`, a Markdown page and a man page, from its options and the records of its commands."""

from __future__ import annotations

from collections.abc import Iterator

from manor.shell.catalog import COMMANDS, GROUPS, in_group
from manor.shell.catalog.meanings import meaning
from manor.shell.main import OPTIONS, URI_VARIABLES

STATUSES = (
    ("0", "everything was done"),
    ("1", "an error; standard error tells which"),
    ("124", "what --wait waits for did not come about within --timeout"),
    ("130", "interrupted"),
)

INTRODUCTION = (
    "Manages domains, networks, storage and what else a daemon offers, with the commands, arguments and output of "
    f"virsh 9.0: {len(COMMANDS)} commands. Without a command it asks for them at a prompt, with completion and history."
)
BEYOND = (
    "Every command takes --output, --wait and --timeout, also behind its name, unless it has its own option of that "
    "name. A command string holds commands with `;` between them; `#` begins a comment. It is read as a whole before "
    "its first command is run, and what follows a command that fails is not run."
)


def markdown(mark: str) -> str:
    """docs/reference/manor-sh.md."""
    return "\n".join(_markdown(mark)) + "\n"


def _markdown(mark: str) -> Iterator[str]:
    yield from (mark, "# manor sh", "", INTRODUCTION, "", "    manor sh [OPTIONS]... [COMMAND_STRING]")
    yield from ("    manor sh [OPTIONS]... COMMAND [ARGS]...", "", BEYOND, "", "## Options", "", "| option | meaning |")
    yield "|---|---|"
    yield from (f"| `{names}` | {text} |" for names, text in OPTIONS)
    yield from ("", f"Without -c, the first of {', '.join(f'`{name}`' for name in URI_VARIABLES)} that is set counts.")
    yield from ("", "## Exit status", "", "| status | meaning |", "|---|---|")
    yield from (f"| {status} | {text} |" for status, text in STATUSES)
    for group in GROUPS:
        yield from ("", f"## {group.title}", "")
        for command in in_group(group):
            yield from (f"### {command.name}", "", f"{command.summary}.", "", f"    {command.synopsis}", "")
            options = [f"- `--{option.name}`: {meaning(command.name, option.name)}" for option in command.options]
            yield from [*options, ""] if options else []


def man_page(mark: str) -> str:
    """docs/reference/manor-sh.1."""
    return "\n".join(_man(mark)) + "\n"


def _man(mark: str) -> Iterator[str]:
    yield from (f'.\\" {mark}', '.TH MANOR-SH 1 "" "Manor" "Manor"', ".SH NAME")
    yield from ("manor-sh \\- manage domains, networks and storage with virsh's commands", ".SH SYNOPSIS")
    yield from (".B manor sh", "[OPTIONS]... [COMMAND_STRING | COMMAND [ARGS]...]", ".SH DESCRIPTION")
    yield from (_roff(INTRODUCTION), ".PP", _roff(BEYOND), ".SH OPTIONS")
    for names, text in OPTIONS:
        yield from (".TP", f".B {_roff(names)}", _roff(text))
    yield ".SH EXIT STATUS"
    for status, text in STATUSES:
        yield from (".TP", f".B {status}", _roff(text))
    yield ".SH COMMANDS"
    for group in GROUPS:
        yield f".SS {group.title}"
        for command in in_group(group):
            yield from (".TP", f".B {_roff(command.synopsis)}", f"{_roff(command.summary)}.")


def _roff(text: str) -> str:
    return text.replace("\\", "\\e").replace("-", "\\-")
