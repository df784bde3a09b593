"""The table of libvirt's XML is what the declarations say now."""

from __future__ import annotations

from tools.gen import libvirt_docs


def test_page_is_up_to_date() -> None:
    assert libvirt_docs.PAGE.read_text("utf-8") == libvirt_docs.page(), "run python tools/gen/libvirt_docs.py"


def test_everything_refused_says_what_to_do_instead() -> None:
    for title, root, cls in libvirt_docs.DOCUMENTS:
        for path, declared in libvirt_docs.declarations(cls, root):
            verdicts = [declared.verdict]
            if isinstance(declared, libvirt_docs.Property) and isinstance(declared.kind, libvirt_docs.Choice):
                verdicts += declared.kind.words.values()
            for verdict in verdicts:
                if verdict.support is libvirt_docs.Support.REFUSED:
                    assert verdict.text, (title, path)
                    assert verdict.fix, (title, path)
