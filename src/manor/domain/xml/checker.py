"""What a document asks for and will not get, from the declarations alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from manor.domain.xml.property import Element, Finding, Property, schema
from manor.domain.xml.values import Support, Verdict

UNKNOWN = "this is not known here; it is kept and has no effect"


def findings(element: Element, path: str) -> Iterator[Finding]:
    """All of `element`, which stands at `path`, and of what is inside."""
    declarations = schema(type(element))
    for declared, value in zip(declarations.properties, declarations.values(element), strict=True):
        if value is None or value == ():
            continue
        full = path if declared.path == "." else f"{path}/{declared.path}"
        if declared.cls:
            yield from _inside(declared, value, full)
        elif value != declared.default:
            yield from _finding(full, declared.doc, declared.verdict)
        if declared.kind:
            yield from _finding(full, f"{declared.kind.show(value)!r}", declared.kind.verdict(value))
    known = declarations.notes
    for attribute in element.extra_attributes:
        if attribute.name.startswith("xmlns"):
            continue
        relative = "/".join((*attribute.where, f"@{attribute.name}"))
        declared_note = known.get(relative)
        if declared_note:
            yield from _finding(f"{path}/{relative}", declared_note.doc, declared_note.verdict)
        else:
            yield Finding(f"{path}/{relative}", Support.IGNORED, UNKNOWN)
    for extra in element.extras:
        relative = "/".join((*extra.where, extra.node.name))
        if relative in known:
            yield from _finding(f"{path}/{relative}", known[relative].doc, known[relative].verdict)
        else:
            yield Finding(f"{path}/{relative}", Support.IGNORED, UNKNOWN)


def _inside(declared: Property, value: Any, full: str) -> Iterator[Finding]:
    for number, one in enumerate(value if declared.many else (value,), 1):
        where = f"{full}[{number}]" if declared.many and len(value) > 1 else full
        yield from _finding(where, declared.doc, declared.verdict)
        yield from findings(one, where)


def _finding(path: str, what: str, verdict: Verdict) -> Iterator[Finding]:
    if verdict.support is not Support.YES:
        yield Finding(path, verdict.support, verdict.text or f"{what}: not supported", verdict.fix)


