"""Save a running VM by its control socket."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from manor.base.errors import HostError, ManorError
from manor.instances.client import ControlClient, VmGone, result_of

Progress = Callable[[int, int], None]
"""Called with bytes of memory that are saved, and of all."""


def save(control: Path, path: Path, progress: Progress) -> None:
    """Have the VM whose control socket is `control` write itself into `path`; then it ends.

    An exception, such as KeyboardInterrupt, gives the save up as long as that is possible. Raises HostError,
    ConfigError, StateError.
    """
    with ControlClient(control) as client:
        client.call("subscribe", topic="save")
        number = client.begin("save", path=str(path.absolute()))
        try:
            while (message := client.next_event(None)) is not None:
                if message.get("id") == number:
                    result_of(message)
                    return
                if message.get("event") == "save":
                    progress(int(message["done"]), int(message["total"]))
        except VmGone as error:
            raise HostError("the VM ended before it was saved") from error
        except ManorError:
            raise
        except BaseException:
            client.begin("save-cancel")
            raise
