"""A saved VM that shall go on: its file, read with checks, into a machine that was built empty."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from manor import __version__
from manor.base.errors import ConfigError, HostError, ProtocolError
from manor.machine.pc import Machine
from manor.machine.saved import load, places_of, read_state
from manor.mem.saved_memory import PIECE, load_piece
from manor.spec import saved_vm
from manor.spec.machine import MachineSpec
from manor.trace.event import declare

Progress = Callable[[int, int], None]
"""Called with bytes read so far, and of the whole file."""

vm_restore = declare("vm_restore", path=str, size=int)



class SavedVm:
    """One file, for one VM. Thread: one. Methods raise ManorError in one sentence for whatever is wrong with it."""

    def __init__(self, path: Path, progress: Progress | None = None) -> None:
        """Looks at the file's two ends, not at all of it."""
        self.path = path
        self.networks: list[Any] = []
        """What the far end of each interface remembered; known after `load`."""
        self.extra: dict[str, Any] = {}
        """What `Saving.extra` had; known after `load`."""
        self.progress = progress
        self.head = saved_vm.read_head(path)
        if self.head.program != __version__:
            raise ProtocolError(
                f"{path} was written by Manor {self.head.program}, this is {__version__}; a saved VM goes on under the "
                "version that saved it, so restore it with that one, or give the saved state up"
            )

    def adapt(self, spec: MachineSpec) -> MachineSpec:
        """`spec` with the names and slots that devices had; one that came while the VM ran has another than it would
        get at a start."""
        return saved_vm.with_places(self.head.machine, spec)

    def places(self) -> dict[str, int]:
        """The slots of PCI functions, by name."""
        reader = saved_vm.open_saved(self.path)
        try:
            for kind, payload in reader.sections():
                if kind == saved_vm.STATE:
                    return places_of(saved_vm.load_json(self.path, payload))
        finally:
            reader.close()
        raise ProtocolError(f"{self.path} does not say where devices are")

    def check(self, spec: MachineSpec, accel: str) -> None:
        """Whether a VM like this can go on with it, before anything is opened for writing."""
        if accel != self.head.accel:
            raise ConfigError(
                "accel", f"the VM was saved under the accelerator {self.head.accel} and cannot go on under {accel}"
            )
        saved_vm.check_same(self.head.machine, spec)
        reader = saved_vm.open_saved(self.path)
        try:
            marks = saved_vm.read_marks(self.path, *reader.last())
        finally:
            reader.close()
        if len(marks) != len(spec.disks):
            raise ProtocolError(f"{self.path} knows {len(marks)} disks, the VM has {len(spec.disks)}")
        saved_vm.check_disks(marks, spec.disks)

    def load(self, machine: Machine) -> None:
        """Fill an empty machine. If this fails the machine is of no use. Machine lock held."""
        reader = saved_vm.open_saved(self.path)
        state: object = None
        host: object = None
        try:
            sections = reader.sections()
            kind, payload = next(sections)
            if saved_vm.parse_head(self.path, kind, payload) != self.head:
                raise HostError(f"{self.path} was replaced meanwhile")
            for kind, payload in sections:
                if kind == saved_vm.PAGES:
                    self._load_piece(machine, payload)
                    if self.progress is not None:
                        self.progress(reader.done, reader.size)
                elif kind == saved_vm.STATE:
                    state = saved_vm.load_json(self.path, payload)
                elif kind == saved_vm.HOST:
                    host = saved_vm.load_json(self.path, payload)
            # The file is whole: what it says may be used.
            load(machine, read_state(machine, state))
            self._know_host(host)
        except ProtocolError as error:
            raise ProtocolError(f"the VM cannot go on: {error}") from error
        finally:
            reader.close()
        if vm_restore.on:
            vm_restore(str(self.path), reader.size)

    def _know_host(self, value: object) -> None:
        if not isinstance(value, dict) or not isinstance(value.get("networks"), list):
            raise ProtocolError(f"{self.path} does not say what the host's side knew")
        self.networks = value["networks"]
        extra = value.get("extra")
        self.extra = extra if isinstance(extra, dict) else {}

    def _load_piece(self, machine: Machine, payload: bytes) -> None:
        if len(payload) <= saved_vm.PAGE_HEAD.size:
            raise ProtocolError("a piece of memory without contents")
        gpa, size, how = saved_vm.PAGE_HEAD.unpack_from(payload)
        data = payload[saved_vm.PAGE_HEAD.size :]
        if size > PIECE:
            raise ProtocolError(f"a piece of memory of {size} bytes")
        if how == saved_vm.ZSTD:
            data = _unpack(data, size)
        elif how != saved_vm.STORED:
            raise ProtocolError(f"a piece of memory stored in way {how}")
        if len(data) != size:
            raise ProtocolError(f"a piece of memory of {len(data)} bytes instead of {size}")
        load_piece(machine.memory, gpa, data)


def _unpack(data: bytes, size: int) -> bytes:
    import zstandard

    try:
        # What says that it is larger is not unpacked.
        if zstandard.frame_content_size(data) != size:
            raise ProtocolError("a piece of memory of another size than it says")
        return zstandard.ZstdDecompressor().decompress(data, max_output_size=size)
    except zstandard.ZstdError as error:
        raise ProtocolError(f"a piece of memory cannot be unpacked: {error}") from error


