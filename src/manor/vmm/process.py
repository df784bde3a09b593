"""One VM in a process of its own: `python -m manor.vmm.process DIRECTORY [LOCK]`, as a supervisor starts it.

    DIRECTORY/spec.json     the machine (spec.machine_json), and how it begins: accel, reboot, paused, saved (a file to
                            go on with)
    DIRECTORY/lock          locked as long as the VM lives; LOCK is a descriptor of it that is locked already
    DIRECTORY/control       its control socket
    DIRECTORY/console.log   what its serial console printed
    DIRECTORY/end.json      how it ended

Standard output carries one line of JSON, {"running": PID} or {"error": ...}, and is closed. Nothing else of the
starter is needed afterwards: it may end, and find the VM again by its directory.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from manor.base import process_lock
from manor.base.errors import HostError, ManorError
from manor.base.files import write_atomically
from manor.spec.control import error_to_json
from manor.spec.machine_json import spec_from_json

_ENDING: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def main(arguments: list[str]) -> int:
    """Run the VM; the exit status is 0 if it ran."""
    # Before there are threads, so that only the one that waits for them gets these signals.
    signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
    directory = Path(arguments[1])
    try:
        lock = _lock(directory, int(arguments[2]) if len(arguments) > 2 else None)
        try:
            _run(directory)
        finally:
            os.close(lock)
    except ManorError as error:
        _report({"error": error_to_json(error)})
        return 1
    return 0


def _lock(directory: Path, inherited: int | None) -> int:
    try:
        if inherited is None:
            descriptor = process_lock.open_lock(directory / "lock")
        else:
            descriptor = inherited
            os.set_inheritable(descriptor, False)
        is_ours = process_lock.try_lock(descriptor)
    except OSError as error:
        raise HostError.from_os_error(f"locking {directory}", error) from error
    if not is_ours:
        raise HostError(f"the VM of {directory} runs already")
    process_lock.note_pid(descriptor)
    return descriptor


def _run(directory: Path) -> None:
    from manor.accel.choose import choose
    from manor.base.console_log import ConsoleLog
    from manor.vmm import garbage
    from manor.vmm.control import ControlServer, listen
    from manor.vmm.control_commands import VmControl
    from manor.vmm.lifecycle import Reason, VmEnd
    from manor.vmm.saved import SavedVm
    from manor.vmm.vm import Vm

    try:
        settings: dict[str, Any] = json.loads((directory / "spec.json").read_text())
    except (OSError, ValueError) as error:
        raise HostError(f"{directory}/spec.json cannot be read: {error}") from error
    spec = spec_from_json(json.dumps(settings["machine"]))
    saved = SavedVm(Path(settings["saved"])) if settings.get("saved") else None
    accel = settings.get("accel", "auto")
    choice = choose(saved.head.accel if saved is not None and accel == "auto" else accel)
    vm = Vm(spec, choice.accel, bool(settings.get("reboot", True)), saved)
    if settings.get("preserve_crash"):
        vm.preserve_crash()
    vm.prepare()
    control = VmControl(vm, str(choice))
    control.log_to(ConsoleLog(directory / "console.log"))
    server = ControlServer(vm.loop, listen(directory / "control"), spec.name, control.commands())
    control.connect(server)
    server.start()
    threading.Thread(
        target=lambda: vm.request_end(VmEnd(Reason.STOPPED, signal.Signals(signal.sigwait(_ENDING)).name)),
        name="signals",
        daemon=True,
    ).start()
    vm.start(paused=settings.get("paused"))
    garbage.settle()
    _report({"running": os.getpid()})
    end = vm.wait()
    has_panicked = vm.serial.has_panicked
    server.close()
    reason = Reason.PANIC if has_panicked and end.reason is Reason.STOPPED else end.reason
    with suppress(OSError):
        write_atomically(
            directory / "end.json", json.dumps({"reason": reason.value, "detail": end.detail}).encode()
        )
        (directory / "control").unlink(missing_ok=True)


def _report(value: dict[str, Any]) -> None:
    """Tell the starter, if it still listens; it is told nothing more."""
    try:
        os.write(1, json.dumps(value).encode() + b"\n")
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 1)
        os.close(null)
    except OSError:
        return


if __name__ == "__main__":
    sys.exit(main(sys.argv))
