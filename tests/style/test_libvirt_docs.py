"""The table of libvirt's XML is what the declarations say now."""

from __future__ import annotations

from manor.domain.xml.property import Property, declarations
from manor.domain.xml.values import Choice, Support
from tools.gen import libvirt_docs


def test_page_is_up_to_date() -> None:
    assert libvirt_docs.PAGE.read_text("utf-8") == libvirt_docs.page(), "run python tools/gen/libvirt_docs.py"


def test_everything_refused_says_what_to_do_instead() -> None:
    for title, root, cls in libvirt_docs.DOCUMENTS:
        for path, declared in declarations(cls, root):
            verdicts = [declared.verdict]
            if isinstance(declared, Property) and isinstance(declared.kind, Choice):
                verdicts += declared.kind.words.values()
            for verdict in verdicts:
                if verdict.support is Support.REFUSED:
                    assert verdict.text, (title, path)
                    assert verdict.fix, (title, path)
