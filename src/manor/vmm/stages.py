"""How far a guest has come, from what it prints on its serial line.

The words are those that unmodified guests print: Linux (init/main.c, "Run ... as init process"), initramfs-tools
("Loading, please wait..."), systemd (src/shared/... "[  OK  ] Started ..."), cloud-init ("Cloud-init v. ... finished")
and getty/login ("login: ").
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Final, Literal, get_args

StageName = Literal["start", "kernel", "initrd", "systemd", "login"]
STAGES: Final[tuple[str, ...]] = get_args(StageName)
"""In the order in which a guest passes them; it may leave some out."""
TAIL_LINES: Final = 12
"""Lines of the serial output shown of a guest that stalls."""

_MAX_LINE: Final = 1024
"""Bytes of a line that are looked at; no word that is looked for is further to the right."""
_ESCAPES: Final = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b[()][0-9A-B]|\x1b[=>78]|[\x00-\x08\x0e-\x1f]")
"""Sequences by which systemd and shells colour and move. Source: ECMA-48, 5.4."""
_KERNEL: Final = re.compile(r"Linux version \d|^\[ *\d+\.\d{6}\]")
_INITRD: Final = re.compile(r"Run /init as init process|^Loading, please wait|^Begin: ")
_SYSTEMD: Final = re.compile(r"systemd\[1\]: |^\[ *(?:OK|FAILED|DEPEND) *\] ")
_UNIT: Final = re.compile(r"^\[ *OK *\] (?:Started|Finished|Reached target|Listening on|Mounted|Created slice) ")
_CLOUD_INIT: Final = re.compile(r"cloud-init\[\d+\]: |Cloud-init v\. ?\S+ (?:running|finished)")
_CLOUD_INIT_END: Final = re.compile(r"Cloud-init v\. ?\S+ finished")
_LOGIN: Final = re.compile(r"(?:^|[\w.-] )login: (?:\[ *\d+\.\d{6}\] .*)?$")
"""The kernel may print into the prompt's line."""
_SHELL: Final = re.compile(r"[#$] $")


@dataclass(frozen=True, slots=True)
class Stage:
    """Where a guest is. units: of systemd that came up. cloud_init: whether it runs, and whether it is done."""

    name: StageName = "start"
    units: int = 0
    cloud_init: Literal["", "running", "done"] = ""

    def __str__(self) -> str:
        if self.name == "systemd" and self.cloud_init == "running":
            return f"cloud-init (systemd: {self.units} units)"
        if self.name == "systemd" and self.units:
            return f"systemd: {self.units} units"
        return self.name


class StageTracker:
    """The serial output in any pieces to stages. Thread: one."""

    def __init__(self) -> None:
        self.stage = Stage()
        self._line = ""
        self._tail: list[str] = []

    def feed(self, data: bytes) -> bool:
        """Look at further output; whether the stage is another one now."""
        before = self.stage
        *lines, last = (self._line + data.decode("utf-8", "replace")).split("\n")
        for line in lines:
            self._look(_plain(line))
        self._line = last[-_MAX_LINE:]
        if self._line:
            self._look_at_prompt(_plain(self._line))
        return self.stage != before

    def tail(self) -> list[str]:
        """The last lines, without escape sequences."""
        last = _plain(self._line)
        return [*self._tail, last] if last else list(self._tail)

    def _look(self, line: str) -> None:
        if line:
            self._tail = [*self._tail[1 - TAIL_LINES :], line]
        if _SYSTEMD.search(line):
            self._advance("systemd")
            if _UNIT.search(line):
                self.stage = replace(self.stage, units=self.stage.units + 1)
        elif _INITRD.search(line):
            self._advance("initrd")
        elif _KERNEL.search(line):
            # After the initrd a kernel's line begins a new boot only if it is its first one.
            if "Linux version " in line:
                self.stage = Stage("kernel")
            self._advance("kernel")
        if _LOGIN.search(line):
            self._advance("login")
        if _CLOUD_INIT.search(line) and self.stage.cloud_init != "done":
            done = _CLOUD_INIT_END.search(line) is not None
            self.stage = replace(self.stage, cloud_init="done" if done else "running")

    def _look_at_prompt(self, line: str) -> None:
        if _LOGIN.search(line) or _SHELL.search(line):
            self._advance("login")

    def _advance(self, name: StageName) -> None:
        if STAGES.index(name) > STAGES.index(self.stage.name):
            self.stage = replace(self.stage, name=name)


def _plain(line: str) -> str:
    # A carriage return in the line begins it anew, as on a terminal.
    return _ESCAPES.sub("", line.rstrip("\r").rpartition("\r")[2])[:_MAX_LINE]
