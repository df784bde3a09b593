"""Commands of the control socket that save the VM."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Final

from manor.base.errors import StateError
from manor.spec.control import Json
from manor.vmm.control import Client, Command, Reply
from manor.vmm.saving import Saving
from manor.vmm.vm import Vm

TOPIC: Final = "save"
_EVENT_S: Final = 0.1
"""Between two events of progress, in seconds."""
_ANSWER_S: Final = 5.0
"""How long the VM's end waits until the answer has left; the loop never takes as long."""


class SaveControl:
    """One save at a time. publish: an event for who follows; call_soon: runs something on the loop's thread."""

    def __init__(
        self,
        vm: Vm,
        publish: Callable[[str, Json], None],
        call_soon: Callable[[Callable[[], None]], None],
        extra: Callable[[], Json],
    ) -> None:
        """extra: what the control socket's side wants to know again."""
        self._vm = vm
        self._publish = publish
        self._call_soon = call_soon
        self._extra = extra
        self._lock = threading.Lock()
        self._saving: Saving | None = None
        self._told_s = 0.0

    def commands(self) -> Mapping[str, Command]:
        """The table for a ControlServer."""
        return {
            "save": Command(self._save, {"path": str}, {"note": str, "paused": bool}, is_slow=True),
            "save-cancel": Command(self._cancel),
        }

    def _save(self, client: Client, arguments: Json, reply: Reply) -> Json | None:
        """Answered when the file is there, just before the VM ends."""
        saving = Saving(arguments["path"], self._progress, arguments.get("note", ""))
        saving.paused = arguments.get("paused")
        saving.extra = self._extra()
        with self._lock:
            if self._saving is not None:
                raise StateError("save", "being saved")
            self._saving = saving
        try:
            self._vm.save(saving, lambda: self._answer(saving, reply))
        finally:
            with self._lock:
                self._saving = None
        return None

    def _answer(self, saving: Saving, reply: Reply) -> None:
        sent = threading.Event()
        reply({"path": str(saving.path), "size": saving.size})
        self._call_soon(sent.set)
        sent.wait(_ANSWER_S)

    def _cancel(self, client: Client, arguments: Json, reply: Reply) -> Json:
        saving = self._saving
        if saving is None or not saving.cancel():
            raise StateError("cancel the save", "not being saved" if saving is None else "saved already")
        return {}

    def _progress(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self._told_s >= _EVENT_S or done == total:
            self._told_s = now
            self._call_soon(lambda: self._publish(TOPIC, {"event": TOPIC, "done": done, "total": total}))
