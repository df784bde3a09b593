"""What was: states of definitions, and what was deleted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from manor.rpc.protocol.own_records import RevisionInfo, TrashEntry
from manor.shell import render
from manor.shell.arguments import Arguments
from manor.shell.commands.services import stamp
from manor.shell.errors import CommandError
from manor.shell.session import Session, uuid_text

KINDS: Final = ("domain", "network", "pool")
"""In the order of the protocol's numbers."""


def _object(session: Session, arguments: Arguments) -> tuple[int, bytes, str]:
    """(kind, UUID, name) of what `name` and `kind` mean. Raises CommandError."""
    word = arguments.get("kind") or "domain"
    if word not in KINDS:
        raise CommandError(f"--kind takes {', '.join(KINDS)}; not '{word}'")
    if word == "domain":
        found: Any = session.domain(arguments, "name")
    elif word == "network":
        found = session.network(arguments, "name")
    else:
        found = session.pool(arguments, "name")
    return KINDS.index(word), found.uuid, found.name


def history(session: Session, arguments: Arguments) -> None:
    """List the states of a definition."""
    kind, uuid, name = _object(session, arguments)
    with session.failing(f"Failed to get the history of '{name}'"):
        found: Sequence[RevisionInfo] = session.call("manor_revisions", kind, uuid)
    if session.is_structured:
        session.out.write(
            render.structured(
                [{**each._asdict(), "is_current": bool(each.is_current)} for each in found], session.output
            )
        )
        return
    rows = [
        (str(each.number), stamp(each.time), each.who, each.name, "current" if each.is_current else "")
        for each in found
    ]
    session.table(("Revision", "Time", "By", "Name", "State"), rows, naming="Revision")


def history_show(session: Session, arguments: Arguments) -> None:
    """Show a definition as it was."""
    kind, uuid, _ = _object(session, arguments)
    number = arguments.number("revision", high=2**32 - 1)
    with session.failing(f"Failed to get revision {number}"):
        text = session.call("manor_revision", kind, uuid, number, arguments.flags(security_info=1))
    if session.is_structured:
        session.out.write(render.structured({"xml": text}, session.output))
    else:
        session.print(text, end="")


def history_diff(session: Session, arguments: Arguments) -> None:
    """Show what changed."""
    kind, uuid, name = _object(session, arguments)
    old = arguments.number("old", high=2**32 - 1)
    with session.failing(f"Failed to compare the states of '{name}'"):
        new = arguments.number("new", -1, high=2**32 - 1)
        if new < 0:
            found = session.call("manor_revisions", kind, uuid)
            new = found[-1].number if found else 0
        text = session.call("manor_revision_diff", kind, uuid, old, new, arguments.flags(security_info=1))
    if session.is_structured:
        session.out.write(render.structured({"old": old, "new": new, "diff": text}, session.output))
    else:
        session.print(text, end="")


def history_revert(session: Session, arguments: Arguments) -> None:
    """Make a definition what it was."""
    kind, uuid, name = _object(session, arguments)
    number = arguments.number("revision", high=2**32 - 1)
    with session.failing(f"Failed to revert '{name}' to revision {number}"):
        session.call("manor_revision_revert", kind, uuid, number)
    session.note(f"'{name}' is as in revision {number} again")


def trash(session: Session, arguments: Arguments) -> None:
    """List what was deleted."""
    with session.failing("Failed to list the trash"):
        found: Sequence[TrashEntry] = session.call("manor_trash")
    if session.is_structured:
        value = [{**each._asdict(), "uuid": uuid_text(each.uuid)} for each in found]
        session.out.write(render.structured(value, session.output))
        return
    rows = [
        (str(each.id), each.kind.removesuffix("s"), each.name, stamp(each.time), each.who, stamp(each.expires))
        for each in found
    ]
    session.table(("Id", "Kind", "Name", "Deleted", "By", "Until"), rows, naming="Id")


def trash_volume(session: Session, arguments: Arguments) -> None:
    """Move a volume to the trash."""
    from manor.shell.commands.volume import find_volume

    pool = session.pool(arguments) if arguments.get("pool") is not None else None
    volume = find_volume(session, arguments.text("vol"), pool)
    with session.failing(f"Failed to move vol {volume.name} to the trash"):
        number = session.call("manor_trash_volume", volume)
    session.note(f"Vol {volume.name} moved to the trash; 'trash-restore {number}' brings it back")


def trash_restore(session: Session, arguments: Arguments) -> None:
    """Bring something back."""
    number = arguments.number("entry")
    with session.failing(f"Failed to restore entry {number} of the trash"):
        found: TrashEntry = session.call("manor_trash_restore", number)
    session.note(f"{found.kind.removesuffix('s').capitalize()} '{found.name}' restored")


def trash_purge(session: Session, arguments: Arguments) -> None:
    """Delete something for good."""
    arguments.exclusive("entry", "all")
    if arguments.get("entry") is None and not arguments.flag("all"):
        raise CommandError("name an entry of the trash, or say --all")
    with session.failing("Failed to delete from the trash"):
        if arguments.flag("all"):
            numbers = [each.id for each in session.call("manor_trash")]
        else:
            numbers = [arguments.number("entry")]
        for number in numbers:
            session.call("manor_trash_purge", number)
    session.note(f"{len(numbers)} {'entry' if len(numbers) == 1 else 'entries'} deleted for good")
