"""What may go wrong in a command, apart from what the daemon answers (`manor.client`'s errors)."""

from __future__ import annotations

from manor.base.errors import ManorError


class UsageError(ManorError):
    """A command line that cannot be understood. hint: what may have been meant, or empty."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class CommandError(ManorError):
    """A command that failed. Several messages are several lines; none is a failure that says nothing."""

    def __init__(self, *messages: str) -> None:
        super().__init__(": ".join(messages))
        self.messages = messages


class WaitTimeout(CommandError):
    """What `--wait` waits for did not come about in time."""


class Quit(Exception):
    """The user leaves."""
