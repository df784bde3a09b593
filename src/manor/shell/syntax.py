"""Command strings: words, quotes, comments, and `;` between commands. The form is virsh's.

A word ends at white space or `;`. Single quotes keep everything, double quotes and a backslash work as in a shell;
`#` at the start of a word makes the rest of the line a comment.
"""

from __future__ import annotations

from manor.shell.errors import UsageError


def split(text: str) -> list[list[str]]:
    """The commands of a string, each a list of words. Raises UsageError for a double quote that is not closed."""
    commands: list[list[str]] = []
    words: list[str] = []
    at = 0
    while at < len(text):
        letter = text[at]
        if letter in ";\n":
            if words:
                commands.append(words)
                words = []
            at += 1
        elif letter.isspace():
            at += 1
        elif letter == "#":
            end = text.find("\n", at)
            at = len(text) if end < 0 else end
        else:
            word, at = _word(text, at)
            words.append(word)
    if words:
        commands.append(words)
    return commands


def _word(text: str, at: int) -> tuple[str, int]:
    """(the word that starts at `at`, position after it)."""
    out: list[str] = []
    quote = ""
    while at < len(text):
        letter = text[at]
        if not quote and (letter.isspace() or letter == ";"):
            break
        if quote != '"' and letter == "'":
            quote = "" if quote else "'"
        elif quote != "'" and letter == '"':
            quote = "" if quote else '"'
        elif quote != "'" and letter == "\\":
            at += 1
            if at == len(text):
                raise UsageError("dangling \\")
            out.append(text[at])
        else:
            out.append(letter)
        at += 1
    if quote == '"':
        raise UsageError('missing "')
    return "".join(out), at


def quote(word: str) -> str:
    """The word as `split` gives it back."""
    if word and not any(letter.isspace() or letter in "'\"\\;#" for letter in word):
        return word
    return "'" + word.replace("'", "'\\''") + "'"
