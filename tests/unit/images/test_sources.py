"""The machine's package sources, in both styles, reduced to a suite."""

from __future__ import annotations

from pathlib import Path

import pytest

from manor.base.errors import ConfigError
from manor.images.sources import AptSource, configured, sources_of

ONE_LINE = """\
# deb http://old.example/debian buster main
deb http://example/debian bookworm main contrib # a comment
deb [arch=amd64 signed-by=/keys/a.gpg,/keys/b.gpg] https://example/security bookworm-security main
deb-src http://example/debian bookworm main
deb http://other.example/tools bookworm stable
"""
DEB822 = """\
# The next one
Types: deb deb-src
URIs: http://example/debian http://second.example/debian
Suites: trixie trixie-updates trixie-backports
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 abc

Types: deb
URIs: http://example/off
Suites: trixie
Components: main
Enabled: no
"""


@pytest.fixture
def apt(tmp_path: Path) -> Path:
    (tmp_path / "sources.list").write_text(ONE_LINE)
    parts = tmp_path / "sources.list.d"
    parts.mkdir()
    (parts / "debian.sources").write_text(DEB822)
    (parts / "ignored.save").write_text(ONE_LINE)
    return tmp_path


def test_both_styles_are_read(apt: Path) -> None:
    found = list(configured(apt))
    assert [source.uris for source in found] == [
        ("http://example/debian",), ("https://example/security",), ("http://other.example/tools",),
        ("http://example/debian", "http://second.example/debian"),
    ]  # fmt: skip
    assert found[1].options == (("Arch", "amd64"), ("Signed-By", "/keys/a.gpg /keys/b.gpg"))


def test_a_suite_with_its_updates_and_without_others_archives(apt: Path) -> None:
    found = sources_of("bookworm", apt)
    assert [(source.suites, source.components) for source in found] == [
        (("bookworm",), ("main", "contrib")), (("bookworm-security",), ("main",)),
    ]  # fmt: skip
    (trixie,) = sources_of("trixie", apt)
    assert trixie.suites == ("trixie", "trixie-updates")
    assert trixie.stanza().endswith("Signed-By: \n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n abc\n")


def test_what_is_written_is_read_again(apt: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    (again / "sources.list.d").mkdir(parents=True)
    for suite in ("bookworm", "trixie"):
        text = "\n".join(source.stanza() for source in sources_of(suite, apt))
        (again / "sources.list.d" / "x.sources").write_text(text)
        assert [each.uris for each in sources_of(suite, again)] == [each.uris for each in sources_of(suite, apt)]


def test_a_suite_that_is_not_there(apt: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="have no sid; they have bookworm, trixie, trixie-backports"):
        sources_of("sid", apt)
    with pytest.raises(ConfigError, match="they have nothing"):
        sources_of("sid", tmp_path / "empty")


@pytest.mark.parametrize(
    ("uri", "is_private"),
    [("http://example/debian", False), ("https://user:word@example/debian", True), ("file:/srv/mirror", True)],
)
def test_addresses_that_an_image_must_not_tell(uri: str, is_private: bool) -> None:
    assert AptSource((uri,), ("bookworm",), ("main",)).is_private is is_private
