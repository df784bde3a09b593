"""XML as commands show, search and change it."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from manor.shell.arguments import Arguments
from manor.shell.errors import CommandError
from manor.shell.link import RemoteError
from manor.shell.session import Session

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element


def parse(text: str) -> Element:
    """The root of what a daemon sent. Raises CommandError."""
    from xml.etree import ElementTree

    try:
        return ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise CommandError(f"the daemon's XML cannot be read: {error}") from None


def as_text(element: Element) -> str:
    """An element as libxml2 writes it: no space before `/>`."""
    from xml.etree import ElementTree

    element.tail = None
    return re.sub(r"(?<=[\w\"'>-]) />", "/>", ElementTree.tostring(element, encoding="unicode"))


def show(session: Session, arguments: Arguments, text: str) -> None:
    """Print XML, or what --xpath finds in it."""
    path = arguments.get("xpath")
    if session.is_structured:
        from manor.shell import render

        session.out.write(render.structured({"xml": text}, session.output))
    elif path is None:
        session.print(text, end="")
    else:
        found = _search(parse(text), path)
        if found and arguments.flag("wrap"):
            body = "".join(f"  {line}\n" for item in found for line in item.split("\n"))
            session.print(f"<nodes>\n{body}</nodes>")
        else:
            for item in found:
                session.print(item)


def _search(root: Element, path: str) -> list[str]:
    """What the part of XPath that ElementTree knows finds, with @attribute and text() at the end besides."""
    if path.strip("/") == "" and len(path) > 1:
        raise CommandError(f"failed to evaluate xpath '{path}': it names nothing")
    steps, _, last = path.rpartition("/")
    wanted = last if last.startswith("@") or last == "text()" else ""
    steps = steps if wanted else path
    if wanted and steps in ("", "/"):
        return _last(list(root.iter()), wanted)
    if steps.startswith("/") and not steps.startswith("//"):
        head, _, rest = steps[1:].partition("/")
        if head.partition("[")[0] not in (root.tag, "*"):
            return []
        steps = "./" + rest if rest else "."
    else:
        steps = f".{steps}" if steps.startswith("//") else steps.rstrip("/") or ".//*"
    if steps == "./":
        steps = ".//*"
    try:
        found = root.findall(steps)
    except (SyntaxError, KeyError) as error:
        raise CommandError(f"failed to evaluate xpath '{path}': {error}") from None
    return _last(found, wanted) if wanted else [as_text(_indented(element)) for element in found]


def _indented(found: Element) -> Element:
    """A copy of an element as if it were a document of its own."""
    import copy
    from xml.etree import ElementTree

    made = copy.deepcopy(found)
    ElementTree.indent(made)
    return made


def _last(found: Sequence[Element], wanted: str) -> list[str]:
    """The texts, or the attribute, of elements."""
    if wanted == "text()":
        return [element.text or "" for element in found]
    name = wanted[1:]
    return [f' {name}="{element.get(name)}"' for element in found if element.get(name) is not None]


def edit_text(session: Session, text: str) -> str:
    """What the user's editor makes of a text. Raises CommandError."""
    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi"
    with tempfile.NamedTemporaryFile("w+", prefix="manor-sh-", suffix=".xml", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        session.out.flush()
        try:
            status = subprocess.run([*shlex.split(editor), file.name], check=False).returncode
        except (OSError, ValueError) as error:
            raise CommandError(f"the editor '{editor}' cannot be started: {error}") from None
        if status:
            raise CommandError(f"the editor '{editor}' ended with status {status}")
        with open(file.name, encoding="utf-8") as edited:  # editors may put another file in its place
            return edited.read()


def edit(
    session: Session, fetch: Callable[[], str], store: Callable[[str], object], unchanged: str, changed: str,
    approve: Callable[[str], bool] = lambda text: True,
) -> None:  # fmt: skip
    """Let the user edit a document; one that is refused may be edited again. Raises CommandError.

    approve: asked before it is stored; if it says no, nothing is.
    """
    original = fetch()
    text = original
    while True:
        text = edit_text(session, text)
        if text == original:
            session.note(unchanged, end="")
            return
        if fetch() != original:
            raise CommandError("ERROR: the XML configuration was changed by another user")
        if not approve(text):
            session.note(unchanged, end="")
            return
        try:
            store(text)
        except RemoteError as error:
            if not session.is_interactive:
                raise
            session.report(error)
            if input("Failed. Try again? [y,n]: ").strip().lower() not in ("y", "yes"):
                raise CommandError from None
        else:
            session.note(changed, end="")
            return


def element(
    name: str, attributes: Sequence[tuple[str, str | None]], children: Sequence[str] = (), text: str | None = None
) -> str:
    """An element; attributes and children that are None or empty are left out. Children are indented."""
    from xml.sax.saxutils import escape

    given = "".join(
        f" {key}='{escape(value, {chr(39): '&apos;', chr(34): '&quot;'})}'" for key, value in attributes if value
    )
    inner = "".join("  " + line + "\n" for child in children if child for line in child.rstrip("\n").split("\n"))
    if inner:
        return f"<{name}{given}>\n{inner}</{name}>\n"
    if text is not None:
        return f"<{name}{given}>{escape(text)}</{name}>\n"
    return f"<{name}{given}/>\n"
