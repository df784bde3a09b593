"""Named VMs on this host: a directory each in the user's state, which one process at a time may run.

$XDG_STATE_HOME/manor/vms/NAME/
    config.json      instances.config
    disk.qcow2       the root disk, an overlay of an image in the store
    seed.iso         what the first boot reads
    lock             locked by the process that runs the VM; holds its number
    saved.state      what `manor save` wrote, until the VM goes on
    console.log      the serial output of a VM in the background
    vmm.log          messages of its VMM
    end.json         how its last run ended
    known_hosts      the guest's ssh keys
$XDG_RUNTIME_DIR/manor/NAME.control
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from manor.base import process_lock
from manor.base.errors import ConfigError, HostError
from manor.base.files import runtime_directory, state_directory, sync_directory, write_atomically
from manor.instances.config import InstanceConfig, check_name, load_config, save_config

_CONFIG: Final = "config.json"
_MAX_END: Final = 1 << 16


class VmRunning(HostError):
    """A VM runs already, so that nobody else may run or change it. pid: of its process, None if not known."""

    def __init__(self, name: str, pid: int | None) -> None:
        process = f" (process {pid})" if pid else ""
        super().__init__(f"the VM {name} runs already{process}; end it with: manor stop {name}")
        self.pid = pid


class Instance:
    """One named VM. Thread: one; several processes may look at the same VM."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: int | None = None

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def disk(self) -> Path:
        return self.path / "disk.qcow2"

    @property
    def seed(self) -> Path:
        return self.path / "seed.iso"

    @property
    def log(self) -> Path:
        return self.path / "console.log"

    @property
    def saved(self) -> Path:
        """Where `manor save` leaves the VM's state."""
        return self.path / "saved.state"

    @property
    def vmm_log(self) -> Path:
        """What the VMM in the background says."""
        return self.path / "vmm.log"

    @property
    def known_hosts(self) -> Path:
        return self.path / "known_hosts"

    @property
    def control(self) -> Path:
        """Where the control socket is while the VM runs."""
        return runtime_directory() / f"{self.name}.control"

    def config(self) -> InstanceConfig:
        """What is remembered. Raises ConfigError if the VM does not exist."""
        try:
            return load_config(self.path / _CONFIG)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise no_such_vm(self.name) from error
        except OSError as error:
            raise HostError.from_os_error(f"reading {self.path / _CONFIG}", error) from error

    def save(self, config: InstanceConfig) -> None:
        """Remember `config` instead."""
        try:
            save_config(self.path / _CONFIG, config)
        except OSError as error:
            raise HostError.from_os_error(f"writing {self.path / _CONFIG}", error) from error

    # --- who runs it --------------------------------------------------------------------------------------------------

    def lock(self) -> None:
        """Become the process that runs, or changes, this VM; until `unlock`, or the end of the process however it ends.

        Children made by fork share the lock. Raises VmRunning if another process has it.
        """
        descriptor = self._open_lock()
        if not process_lock.try_lock(descriptor):
            pid = process_lock.noted_pid(descriptor)
            os.close(descriptor)
            raise VmRunning(self.name, pid)
        self._lock = descriptor
        self.note_pid()

    def note_pid(self) -> None:
        """Write this process's number into the lock, for people."""
        assert self._lock is not None
        process_lock.note_pid(self._lock)

    def unlock(self) -> None:
        """Let others run it; nothing happens if this process does not."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def running_pid(self) -> int | None:
        """The process that runs it, 0 if its number is not known; None if nobody does.

        A process that was killed holds no lock: what it left behind is not taken for a running VM.
        """
        return process_lock.holder(self.path / "lock")

    def _open_lock(self) -> int:
        try:
            return process_lock.open_lock(self.path / "lock")
        except FileNotFoundError as error:
            raise no_such_vm(self.name) from error
        except OSError as error:
            raise HostError.from_os_error(f"locking the VM {self.name}", error) from error

    # --- its last end -------------------------------------------------------------------------------------------------

    def note_end(self, reason: str, detail: str, status: int) -> None:
        """Remember how a run ended. Errors are ignored: nobody could be told."""
        value = {"reason": reason, "detail": detail, "status": status}
        try:
            write_atomically(self.path / "end.json", json.dumps(value).encode())
        except OSError:
            return

    def last_end(self) -> dict[str, Any] | None:
        """How the last run ended: reason, detail, exit status; None if it never did, or was killed."""
        try:
            with (self.path / "end.json").open("rb") as file:
                value = json.loads(file.read(_MAX_END))
        except (OSError, ValueError):
            return None
        return value if isinstance(value, dict) else None

    def forget_end(self) -> None:
        """A run begins."""
        (self.path / "end.json").unlink(missing_ok=True)


class Instances:
    """All named VMs of this user."""

    def __init__(self, root: Path | None = None) -> None:
        """root: instead of $XDG_STATE_HOME/manor/vms."""
        self.root = root if root is not None else state_directory() / "vms"

    def all(self) -> list[Instance]:
        """In the order of names."""
        try:
            names = sorted(path.name for path in self.root.iterdir() if not path.name.startswith("."))
        except FileNotFoundError:
            return []
        except OSError as error:
            raise HostError.from_os_error(f"reading {self.root}", error) from error
        return [Instance(self.root / name) for name in names]

    def find(self, name: str) -> Instance | None:
        """The VM `name`; None if there is none. Raises ConfigError for what can be no name."""
        instance = Instance(self.root / check_name(name))
        return instance if (instance.path / _CONFIG).exists() else None

    def get(self, name: str) -> Instance:
        """The VM `name`. Raises ConfigError if there is none."""
        instance = self.find(name)
        if instance is None:
            raise no_such_vm(name)
        return instance

    def create(self, config: InstanceConfig, fill: Callable[[Instance, Instance], None]) -> Instance:
        """Make a VM, complete or not at all. fill(new, final): makes its files; `new` is moved to `final` afterwards.

        Raises ConfigError if there is one of that name already; what `fill` raises; HostError.
        """
        final = Instance(self.root / check_name(config.name))
        try:
            self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
            with self._one_at_a_time():
                self._sweep()
                temporary = Path(tempfile.mkdtemp(prefix=f".{config.name}.", suffix=".new", dir=self.root))
                new = Instance(temporary)
                new.lock()
        except OSError as error:
            raise HostError.from_os_error(f"making the VM {config.name} in {self.root}", error) from error
        try:
            fill(new, final)
            new.save(config)
            os.rename(temporary, final.path)
            sync_directory(self.root)
        except OSError as error:
            shutil.rmtree(temporary, ignore_errors=True)
            if final.path.exists():
                raise ConfigError("", f"there is a VM {config.name} already") from error
            raise HostError.from_os_error(f"making the VM {config.name} in {self.root}", error) from error
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        finally:
            new.unlock()
        return final

    def remove(self, instance: Instance) -> None:
        """Remove a VM with its disk. Raises VmRunning if it runs, HostError."""
        instance.lock()
        try:
            with self._one_at_a_time():
                gone = self.root / f".{instance.name}.{os.getpid()}.new"
                os.rename(instance.path, gone)
                sync_directory(self.root)
                shutil.rmtree(gone)
        except OSError as error:
            raise HostError.from_os_error(f"removing the VM {instance.name}", error) from error
        finally:
            instance.unlock()

    @contextmanager
    def _one_at_a_time(self) -> Iterator[None]:
        """What is being made and not locked yet, or half removed, must not be taken for a leftover. Raises OSError."""
        descriptor = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _sweep(self) -> None:
        """Remove what processes left that were killed while they made or removed a VM."""
        for path in self.root.glob(".*.new"):
            left = Instance(path)
            if left.running_pid() is None:
                shutil.rmtree(path, ignore_errors=True)


def no_such_vm(name: str) -> ConfigError:
    """The error for a VM that does not exist."""
    return ConfigError("", f"there is no VM {name!r}; manor ls shows those there are, and manor run {name} makes one")
