"""Command strings, and how words become a command's options."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manor.shell.arguments import bind, parse_size
from manor.shell.catalog import COMMANDS, find
from manor.shell.errors import CommandError, UsageError
from manor.shell.syntax import quote, split


def test_commands_are_apart_at_semicolons_and_words_at_spaces() -> None:
    assert split("list --all;  echo 'a  b' \"c;d\" e\\ f # rest\npwd") == [
        ["list", "--all"], ["echo", "a  b", "c;d", "e f"], ["pwd"],
    ]  # fmt: skip


def test_single_quote_may_stay_open_but_a_double_one_may_not() -> None:
    assert split("echo 'a b") == [["echo", "a b"]]
    with pytest.raises(UsageError, match='missing "'):
        split('echo "a')


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1))
def test_quoted_words_come_back(words: list[str]) -> None:
    given_words = [word for word in words if word]
    text = " ".join(quote(word) for word in given_words)
    assert split(text) == ([given_words] if given_words else [])


def test_values_fill_options_in_order_and_by_name() -> None:
    arguments = bind(find("vol-info"), ["v1", "--bytes", "--pool=p"])
    assert (arguments.text("vol"), arguments.get("pool"), arguments.flag("bytes")) == ("v1", "p", True)
    assert bind(find("vol-info"), ["v1", "p"]).get("pool") == "p"
    assert bind(find("echo"), ["--", "--xml"]).words("arg") == ["--xml"]


def test_an_option_that_needs_its_name_takes_no_place() -> None:
    arguments = bind(find("send-key"), ["test", "KEY_A", "KEY_B"])
    assert arguments.words("keycode") == ["KEY_A", "KEY_B"]
    assert arguments.get("codeset") is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["dominfo"], "command 'dominfo' requires <domain> option"),
        (["dominfo", "a", "b"], "unexpected data 'b'"),
        (["dominfo", "--domain"], "expected syntax: --domain <string>"),
        (["dominfo", "--domain", "a", "--domain", "b"], "option --domain already seen"),
        (["list", "--uuid=3"], "invalid '=' after option --uuid"),
        (["list", "--bogus"], "command 'list' doesn't support option --bogus"),
    ],
)
def test_mistakes_in_virshs_words(words: list[str], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        bind(find(words[0]), words[1:])
    assert str(caught.value) == message


def test_what_may_have_been_meant() -> None:
    with pytest.raises(UsageError, match="unknown command: 'domifno'") as caught:
        find("domifno")
    assert caught.value.hint == "did you mean 'dominfo'?"
    with pytest.raises(UsageError) as caught:
        bind(find("list"), ["--inactiv"])
    assert caught.value.hint == "did you mean --inactive?"


@pytest.mark.parametrize(
    ("text", "size"),
    [("3", 3 << 10), ("3b", 3), ("3k", 3 << 10), ("3KB", 3000), ("3MiB", 3 << 20), ("2T", 2 << 40), ("-1", None),
     ("x", None), ("3XB", None), ("99999999999E", None)],
)  # fmt: skip
def test_sizes(text: str, size: int | None) -> None:
    assert parse_size(text, 1024) == size


def test_numbers_are_checked() -> None:
    arguments = bind(find("setvcpus"), ["test", "many"])
    with pytest.raises(CommandError, match="Numeric value 'many' for <count> option is malformed or out of range"):
        arguments.number("count")


def test_flags_that_exclude_each_other() -> None:
    with pytest.raises(CommandError, match="Options --current and --live are mutually exclusive"):
        bind(find("setmem"), ["test", "1", "--current", "--live"]).affect()


def test_no_option_of_a_command_is_declared_twice() -> None:
    for command in COMMANDS.values():
        names = [option.name for option in command.options]
        assert len(names) == len(set(names)), command.name
