"""XML as text: what is refused, and that what is read is written again."""

from __future__ import annotations

import string
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manor.base.errors import ConfigError
from manor.domain.xml.tree import MAX_DEPTH, MAX_TEXT, Node, read, write

BOMB = """<!DOCTYPE a [<!ENTITY x "xxxxxxxxxx"><!ENTITY y "&x;&x;&x;&x;&x;&x;">]><a>&y;</a>"""
OUTSIDE = """<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><a>&x;</a>"""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BOMB, "line 1: a document type declaration is not accepted"),
        (OUTSIDE, "document type declaration"),
        ("<!DOCTYPE a SYSTEM 'http://127.0.0.1/a.dtd'><a/>", "document type declaration"),
        ("", "this is not XML: no element found"),
        ("<a>\n<b></a>", "line 2: this is not XML: mismatched tag"),
        ("<b/>", "the document is a <b>; a <a> is needed here"),
        ("<a/><a/>", "junk after document element"),
        ("<a>&x;</a>", "undefined entity"),
        ("<a x='1' x='2'/>", "duplicate attribute"),
        ("<a>\x00</a>", "not XML"),
        ("<a>\ud800</a>", "surrogate"),
        ("<a>" * (MAX_DEPTH + 1), "nested more than 64 deep"),
        ("<a " + " ".join(f"a{n}=''" for n in range(300)) + "/>", "more than 256 attributes"),
        ("<a>" + "x" * MAX_TEXT + "</a>", "bytes of XML are too much"),
        ("<a>" + "<b/>" * 20_000 + "</a>", "more than 20000 elements"),
    ],
)
def test_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(text, "a")
    assert message in str(caught.value)


def test_another_encoding_in_the_declaration_changes_nothing() -> None:
    assert read("<?xml version='1.0' encoding='iso-8859-1'?><a>ü</a>", "a").text == "ü"


def test_prefixes_stay_and_white_space_between_elements_goes() -> None:
    node = read("<a>\n  <x:b xmlns:x='urn:x'>\n <x:c> d </x:c>\n</x:b>\n</a>", "a")
    assert write(node) == "<a>\n  <x:b xmlns:x='urn:x'>\n    <x:c> d </x:c>\n  </x:b>\n</a>\n"


def test_text_between_elements_stays_where_it_is() -> None:
    text = "<a>one <b>two<c k='1'/></b> three</a>"
    assert write(read(text, "a")) == text + "\n"


@pytest.mark.parametrize("bad", ["\x00", "\x0b", "\ufffe", "\ud800"])
def test_what_xml_cannot_say_is_an_error(bad: str) -> None:
    with pytest.raises(ConfigError, match="XML cannot contain"):
        write(Node("a", (("k", bad),)))
    with pytest.raises(ConfigError, match="XML cannot contain"):
        write(Node("a", (), (bad,)))
    with pytest.raises(ConfigError, match="not a name"):
        write(Node("a b"))


names = st.text(string.ascii_letters, min_size=1, max_size=8)
texts = st.text(st.characters(exclude_categories=["Cs", "Cc", "Cn"]) | st.sampled_from("\t\n\r<>&'\""), max_size=20)
attributes = st.dictionaries(names, texts, max_size=3).map(lambda found: tuple(found.items()))
leaves = st.builds(
    lambda name, attributes, text: Node(name, attributes, (text,) if text else ()), names, attributes, texts
)
trees = st.recursive(
    leaves, lambda inner: st.builds(Node, names, attributes, st.lists(inner, max_size=4).map(tuple)), max_leaves=12
)


@given(trees)
def test_what_is_written_is_read_as_it_was(node: Node) -> None:
    text = write(node)
    assert read(text, node.name) == node
    # An XML parser that is not ours agrees about names, attributes and text.
    other = ElementTree.fromstring(text)
    assert (other.tag, tuple(other.attrib.items())) == (node.name, node.attributes)
    assert [child.tag for child in other] == [child.name for child in node.elements()]


@given(st.binary(max_size=200) | st.text("<>/a='\" &;!-[]", max_size=80).map(str.encode))
def test_any_bytes_are_a_tree_or_an_error(data: bytes) -> None:
    text = data.decode("utf-8", "surrogateescape")
    try:
        node = read(text, "a")
    except ConfigError:
        return
    assert read(write(node), "a") == node
