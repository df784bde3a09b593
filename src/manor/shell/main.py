"""The command line of the shell, in virsh's form: options, then a command string, or a command and its words."""

from __future__ import annotations

import getopt
import os
import sys
from collections.abc import Sequence
from typing import TextIO

from manor import __version__
from manor.shell import syntax
from manor.shell.errors import CommandError, Quit, UsageError
from manor.shell.session import Opener, Session, Settings, open_link, parse_seconds

SHORT = "+c:d:e:hk:K:l:qrtvV"
LONG = [
    "connect=", "debug=", "escape=", "help", "keepalive-interval=", "keepalive-count=", "log=", "quiet", "readonly",
    "timing", "version==", "output=", "wait", "timeout=",
    "explain",
]  # fmt: skip

OPTIONS = (
    ("-c, --connect URI", "the hypervisor to connect to"),
    ("-d, --debug NUM", "how much is told of the work: 0 everything, 4 errors only"),
    ("-e, --escape CHAR", "what ends a console, ^] at first"),
    ("-h, --help", "this help"),
    ("-k, --keepalive-interval NUM", "seconds between looks whether the daemon lives; 0 for none"),
    ("-K, --keepalive-count NUM", "looks without an answer after which the connection is lost"),
    ("-l, --log FILE", "write a log to FILE"),
    ("-q, --quiet", "leave out headings and messages"),
    ("-r, --readonly", "connect without the right to change anything"),
    ("-t, --timing", "tell how long each command took"),
    ("-v", "print the version"),
    ("-V", "print the version and what there is"),
    ("--version[=TYPE]", "the same; TYPE is short or long"),
    ("--output FORM", "table, json, yaml or name"),
    ("--wait", "wait until what was asked for has come about"),
    ("--timeout SECONDS", "how long --wait waits"),
    ("--explain", "say more of an error than virsh does: cause, fix, evidence; on a terminal the fix is always said"),
)
"""The options and what they do, for `--help` and the reference page."""

URI_VARIABLES = ("MANOR_DEFAULT_URI", "VIRSH_DEFAULT_CONNECT_URI", "LIBVIRT_DEFAULT_URI")
"""Environment variables that name the hypervisor where -c does not; the first that is set."""


class _Done(Exception):
    pass


def main(
    words: Sequence[str], *, opener: Opener = open_link, out: TextIO | None = None, err: TextIO | None = None
) -> int:
    """Run the shell; the exit status. words: what follows `manor sh`."""
    out, err = out or sys.stdout, err or sys.stderr
    settings = Settings(uri=next((os.environ[name] for name in URI_VARIABLES if os.environ.get(name)), ""))
    session = Session(settings, opener, out, err)
    try:
        rest = parse_options(settings, words, out)
        if rest:
            commands = syntax.split(rest[0]) if len(rest) == 1 else [list(rest)]
            return session.run(commands) if commands else 1
        from manor.shell.interactive import interact

        return interact(session)
    except _Done:
        return 0
    except Quit:
        return 0
    except (UsageError, CommandError) as error:
        session.report(error)
        return 1
    finally:
        session.disconnect()


def parse_options(settings: Settings, words: Sequence[str], out: TextIO) -> list[str]:
    """Take the options into `settings`; what follows them. Raises UsageError."""
    words = ["--version=short" if word == "--version" else word for word in words]
    try:
        options, rest = getopt.getopt(words, SHORT, [name.replace("==", "=") for name in LONG])
    except getopt.GetoptError as error:
        raise UsageError(_complaint(error)) from None
    for option, value in options:
        _take(settings, option, value, out)
    return rest


def _complaint(error: getopt.GetoptError) -> str:
    dashed = ("-" if len(error.opt) == 1 else "--") + error.opt
    if "requires argument" in error.msg:
        return f"option '{dashed}' requires an argument"
    return f"unsupported option '{dashed}'. See --help."


def _take(settings: Settings, option: str, value: str, out: TextIO) -> None:
    if option in ("-c", "--connect"):
        settings.uri = value
    elif option in ("-d", "--debug"):
        settings.debug = min(_number("-d", value), 4)
    elif option in ("-e", "--escape"):
        if not (len(value) == 1 or (len(value) == 2 and value[0] == "^" and 0x3F <= ord(value[1].upper()) <= 0x5F)):
            raise UsageError(f"Invalid string '{value}' for escape sequence")
        settings.escape = value
    elif option in ("-h", "--help"):
        out.write(usage())
        raise _Done
    elif option in ("-k", "--keepalive-interval"):
        settings.keepalive = (_number("-k", value), settings.keepalive[1])
    elif option in ("-K", "--keepalive-count"):
        settings.keepalive = (settings.keepalive[0], _number("-K", value))
    elif option in ("-l", "--log"):
        settings.log = value
    elif option in ("-v", "-V", "--version"):
        if option == "--version" and value not in ("short", "long"):
            raise UsageError(f"option '--version' takes short or long; not '{value}'")
        out.write(f"{__version__}\n" if option == "-v" or value == "short" else long_version())
        raise _Done
    elif option == "--output":
        settings.output = value
    elif option == "--timeout":
        settings.timeout = parse_seconds(value)
    elif option == "--explain":
        settings.explains = True
    else:
        name = {"-q": "quiet", "-r": "read_only", "-t": "timed", "--readonly": "read_only", "--timing": "timed"}
        setattr(settings, "waits" if option == "--wait" else f"is_{name.get(option, option.lstrip('-'))}", True)


def _number(option: str, value: str) -> int:
    if not value.isdigit():
        raise UsageError(f"option {option} takes a numeric argument")
    return int(value)


def usage() -> str:
    """What `--help` prints."""
    from manor.shell.catalog import GROUPS, in_group

    lines = ["", "manor sh [options]... [<command_string>]", "manor sh [options]... <command> [args...]", ""]
    lines.append("  options:")
    lines += [f"    {names:<30} {text}" for names, text in OPTIONS]
    lines.append("  commands:")
    for group in GROUPS:
        lines += ["", f" {group.title} (help keyword '{group.keyword}')"]
        lines += [f"    {command.name:<30} {command.summary}" for command in in_group(group)]
    lines += ["", "  (`manor sh help <group>` lists a group, `manor sh help <command>` explains a command)", "", ""]
    return "\n".join(lines)


def long_version() -> str:
    """What -V prints."""
    from manor.shell.catalog import COMMANDS

    return (
        f"manor sh {__version__}: the shell of Manor\n"
        f"{len(COMMANDS)} commands, with the names, arguments and output of virsh 9.0\n"
        "Transports: unix, tls, ssh, tcp, ext\n"
    )
