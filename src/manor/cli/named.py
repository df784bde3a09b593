"""`manor run NAME`: the part of it that knows of VMs with names. `manor run` itself describes and runs a machine.

The options of `manor run` are remembered as they were written, and given to it again the next time. So a VM's
configuration is read and checked by the same code, whatever it consists of.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
from click.core import ParameterSource

from manor.base.errors import ConfigError
from manor.base.units import parse_size
from manor.cli.names import complete_runnable

if TYPE_CHECKING:
    from manor.images.store import Store, StoredImage
    from manor.instances.config import InstanceConfig
    from manor.instances.detach import Report
    from manor.instances.instance import Instance, Instances
    from manor.spec.block import DiskSpec
    from manor.spec.machine import MachineSpec
    from manor.vmm.control import ControlServer
    from manor.vmm.saved import SavedVm
    from manor.vmm.vm import Vm

WAITS: Final = ("boot", "login", "cloud-init", "agent")
NO_IMAGE: Final = "none"
_FORGOTTEN: Final = frozenset({"no_reboot", "stats", "as_json", "trace", "trace_file"})
"""Options that are about one run, not about the machine."""
_LISTS_OF_FILES: Final = frozenset({"disks", "disk", "shares", "share", "vsock"})
"""Options whose values begin with a file name, up to a comma."""


def named_options(command: Callable[..., int]) -> Callable[..., int]:
    """The argument and options of `manor run` that are about VMs with names."""
    for decorate in reversed(
        (
            click.argument("name", metavar="[NAME]", required=False, shell_complete=complete_runnable),
            click.option(
                "--image", metavar="IMAGE",
                help=f"What a new VM's disk is cloned from; {NO_IMAGE} for no disk. Default: the image called NAME.",
            ),
            click.option("--size", metavar="SIZE", help="Size of a new VM's disk, if larger than the image."),
            click.option("--user", metavar="USER", help="The account that a new VM's first boot makes."),
            click.option(
                "--user-data", metavar="FILE", type=click.Path(path_type=Path, readable=False),
                help="What cloud-init is to do at a new VM's first boot.",
            ),
            click.option(
                "--ssh-key", "ssh_keys", metavar="FILE", type=click.Path(path_type=Path, readable=False), multiple=True,
                help="A public key that may log in to a new VM, besides Manor's own. Repeatable.",
            ),
            click.option(
                "--password-hash", metavar="HASH",
                help="The password of a new VM's account, as `openssl passwd -6` prints it. Default: none.",
            ),
            click.option(
                "--restore", metavar="FILE", type=click.Path(path_type=Path, readable=False),
                help="Go on with what `manor save NAME FILE` wrote, instead of booting.",
            ),
            click.option(
                "--discard-saved", is_flag=True,
                help="Boot, and forget what `manor save NAME` wrote. For the guest that is as if the power had failed.",
            ),
            click.option("-d", "--detach", is_flag=True, help="Run NAME in the background."),
            click.option(
                "--wait", type=click.Choice(WAITS),
                help="Run NAME in the background, and wait until it has come so far.",
            ),
        )
    ):  # fmt: skip
        command = decorate(command)
    return command


_OWN: Final = (
    "name", "image", "size", "user", "user_data", "ssh_keys", "password_hash", "restore", "discard_saved", "detach",
    "wait",
)  # fmt: skip
_MAX_KEY: Final = 1 << 16


class NamedCommand(click.Command):
    """`manor run`: with a NAME, options that were remembered are filled in before it is called."""

    def invoke(self, ctx: click.Context) -> Any:
        own = {option: ctx.params.pop(option) for option in _OWN}
        if own["name"] is None:
            given = next((option for option in _OWN[1:] if own[option]), None)
            if given is not None:
                raise ConfigError(given.replace("_", "-"), "it needs the NAME of a VM: manor run NAME")
            return super().invoke(ctx)
        run = NamedRun(self, ctx, **own)
        ctx.obj = run
        if not run.is_detached:
            try:
                return super().invoke(ctx)
            finally:
                run.close()
        return self._invoke_detached(ctx, run)

    def _invoke_detached(self, ctx: click.Context, run: NamedRun) -> int:
        from manor.cli.wait import wait_for
        from manor.instances.detach import Exited, detach, run_detached

        instance = run.instances.find(run.name)
        if instance is not None and (pid := instance.running_pid()) is not None:
            if run.wait is not None and not run.has_options:
                return wait_for(instance, run.wait)
            from manor.instances.instance import VmRunning

            raise VmRunning(run.name, pid)
        try:
            report = detach()
        except Exited as error:
            return error.status
        if report is not None:
            run.report = report
            run_detached(report, lambda: self._run(ctx, run))
        if run.wait is not None:
            return wait_for(run.instances.get(run.name), run.wait)
        click.echo(
            f"manor: {run.name} runs in the background; manor console {run.name}, manor stop {run.name}.", err=True
        )
        return 0

    def _run(self, ctx: click.Context, run: NamedRun) -> int:
        try:
            return int(super().invoke(ctx) or 0)
        except click.ClickException as error:
            error.show()
            return error.exit_code
        except click.exceptions.Exit as ended:
            return ended.exit_code
        finally:
            run.close()


class NamedRun:
    """One run of a VM with a name. report: to the command that started it, if it runs in the background."""

    def __init__(
        self,
        command: click.Command,
        ctx: click.Context,
        name: str,
        image: str | None,
        size: str | None,
        user: str | None,
        user_data: Path | None,
        ssh_keys: tuple[Path, ...],
        password_hash: str | None,
        restore: Path | None,
        discard_saved: bool,
        detach: bool,
        wait: str | None,
    ) -> None:
        """Finds the VM, or the image for a new one, and fills remembered options in. Changes nothing yet."""
        from manor.instances.instance import Instances

        self.name = name
        self.wait = wait
        self.is_detached = detach or wait is not None
        self.report: Report | None = None
        self.instances: Instances = Instances()
        self._instance: Instance | None = self.instances.find(name)
        self._image: StoredImage | None = None
        self._user = user
        self._user_data = b""
        self._keys = tuple(_read_key(path) for path in ssh_keys)
        self._password_hash = password_hash or ""
        self._is_new = False
        self._restore = restore
        self._discards = discard_saved
        self._saved: SavedVm | None = None
        self._server: ControlServer | None = None
        given = _given(command, ctx)
        self.has_options = bool(given)
        """Whether the command line says anything of the machine; otherwise it may only wait for one that runs."""
        if self._instance is not None:
            for option, value in (
                ("image", image), ("size", size), ("user", user), ("user-data", user_data), ("ssh-key", ssh_keys),
                ("password-hash", password_hash),
            ):  # fmt: skip
                if value:
                    raise ConfigError(option, f"the VM {name} is there already; this counts only when it is made")
            config = self._instance.config()
            _fill_in(command, ctx, config.options, given)
            self._options = {**config.options, **given}
        else:
            self._options = given
            self._find_image(image, is_bootable="kernel" in given or "disks" in given)
            if user_data is not None:
                from manor.images.seed import read_user_data

                self._user_data = read_user_data(user_data)
        self._size = _parse_size(size)

    def _find_image(self, image: str | None, is_bootable: bool) -> None:
        if image == NO_IMAGE:
            return
        store = self._store()
        if image is not None:
            self._image = store.find(image)
            return
        with suppress(ConfigError):  # not every name of a VM can be one of an image
            self._image = store.find_or_none(self.name.lower())
        if self._image is None and not is_bootable:
            raise ConfigError(
                "",
                f"there is neither a VM nor an image {self.name!r}; fetch an image with: manor image pull {self.name}; "
                "or name another one with --image",
            )

    def _store(self) -> Store:
        from manor.images.store import Store

        return Store()

    def saved(self) -> SavedVm | None:
        """What the VM goes on with, if that is there. Raises ManorError if it cannot."""
        path, own = self._restore, None if self._instance is None else self._instance.saved
        if own is not None and own.exists() and not self._discards:
            if path is not None:
                raise ConfigError("restore", f"{self.name} has a saved state already; add --discard-saved to lose it")
            path = own
        if path is None:
            return None
        if own is None:
            raise ConfigError("restore", f"there is no VM {self.name} to go on with; make it first")
        from manor.vmm.saved import SavedVm

        self._saved = SavedVm(path)
        return self._saved

    def as_saved(self, spec: MachineSpec) -> MachineSpec:
        """`spec` with the devices and vCPUs that the VM had when it was saved, unless options say otherwise."""
        if self._saved is None or self._restore is not None or self.has_options:
            return spec
        was = self._saved.head.machine
        return replace(spec, disks=was.disks, nics=was.nics, cpus=was.cpus)

    def prepare(self, vm: Vm) -> None:
        """`vm.prepare`, with progress where that takes its time."""
        if self._saved is None:
            vm.prepare()
            return
        from manor.cli.progress import shown_progress

        with shown_progress() as progress:
            progress.step(f"restoring {self.name}")
            self._saved.progress = progress.advance
            vm.prepare()

    # --- for `manor run` ----------------------------------------------------------------------------------------------

    def disks(self, others: tuple[DiskSpec, ...]) -> tuple[DiskSpec, ...]:
        """The VM's own root disk and `others`. Makes the VM if it is new, and locks it.

        All options were checked before.
        """
        from manor.instances.machine import with_root

        instance = self._instance or self._create()
        instance.lock()
        self._instance = instance
        if self._discards:
            instance.saved.unlink(missing_ok=True)
        config = instance.config()
        if self._saved is None:
            config = self._remember_options(instance, config)
        return with_root(instance, config, others)

    def _remember_options(self, instance: Instance, config: InstanceConfig) -> InstanceConfig:
        if config.options != self._options:
            config = replace(config, options=self._options)
            instance.save(config)
        return config

    def complete(self, spec: MachineSpec) -> MachineSpec:
        """Add the VM's name and identity, and credentials for its guest. After `disks`."""
        from manor.instances.machine import complete

        assert self._instance is not None
        return complete(spec, self._instance, self._instance.config())

    def _create(self) -> Instance:
        from manor.images.seed import SeedSpec
        from manor.instances.config import new_config
        from manor.instances.create import create
        from manor.instances.ssh_key import public_key

        config = replace(
            new_config(self.name),
            image=str(self._image) if self._image else "",
            digest=self._image.digest if self._image else "",
            disk=self._image is not None,
            user=self._user or (self._image.metadata.user if self._image else "") or _own_user(),
            options=self._options,
        )
        seed = SeedSpec(
            config.uuid,
            self.name.lower(),
            config.user,
            (public_key(), *self._keys) if self._image is not None else self._keys,
            self._password_hash,
            self._user_data,
        )
        self._is_new = True
        return create(self.instances, self._store(), config, self._image, self._size, seed)

    def serve(self, vm: Vm, accelerator: str) -> None:
        """Open the VM's control socket. Before the VM starts."""
        from manor.vmm.control import ControlServer, listen
        from manor.vmm.control_commands import VmControl

        assert self._instance is not None
        control = VmControl(vm, accelerator)
        if self.is_detached:
            from manor.base.console_log import ConsoleLog

            control.log_to(ConsoleLog(self._instance.log))
        self._server = ControlServer(vm.loop, listen(self._instance.control), self.name, control.commands())
        control.connect(self._server)
        self._server.start()

    def on_running(self) -> None:
        """The VM runs."""
        self._is_new = False
        if self._instance is not None:
            self._instance.note_pid()
            self._instance.forget_end()
            if self._saved is not None:
                # Not before: options that do not fit what was saved are refused, and shall be refused only once.
                self._remember_options(self._instance, self._instance.config())
            if self._saved is not None and self._saved.path == self._instance.saved:
                # From here on its disks are others. An end from now on is as if the power had failed.
                self._instance.saved.unlink(missing_ok=True)
            if self.report is not None:
                self.report.running(self._instance.vmm_log)

    def on_end(self, reason: str, detail: str, status: int) -> None:
        """The VM ended."""
        if self._instance is not None:
            self._instance.note_end(reason, detail, status)

    def close(self) -> None:
        """Give socket and lock back. A VM that was made for this run and never ran is removed: it is of no use."""
        if self._server is not None:
            self._server.close()
            if self._instance is not None:
                self._instance.control.unlink(missing_ok=True)
        if self._instance is not None:
            self._instance.unlock()
            if self._is_new:
                from manor.instances.create import remove

                remove(self.instances, self._store(), self._instance)


def _given(command: click.Command, ctx: click.Context) -> dict[str, Any]:
    """Options on the command line that are worth remembering, as plain values; files by their whole path."""
    given = {}
    for parameter in command.params:
        name = parameter.name
        if name is None or name not in ctx.params or name in _FORGOTTEN or parameter.is_eager:
            continue
        if ctx.get_parameter_source(name) in (ParameterSource.COMMANDLINE, ParameterSource.ENVIRONMENT):
            given[name] = _plain(name, ctx.params[name])
    return given


def _plain(name: str, value: Any) -> Any:
    if isinstance(value, Path):
        return str(value.absolute())
    if isinstance(value, (tuple, list)):
        return [_plain(name, each) for each in value]
    if isinstance(value, str) and name in _LISTS_OF_FILES:
        return absolute_disk(value)
    return value


def absolute_disk(text: str) -> str:
    """A file at the beginning of `text` by its whole path; a URI stays. A comma in a name is written twice."""
    scheme = text.partition(":")[0]
    if os.path.isabs(text) or (":" in text and scheme.replace("+", "").isalnum()):
        return text
    return os.getcwd().replace(",", ",,") + "/" + text


def _fill_in(command: click.Command, ctx: click.Context, options: dict[str, Any], given: dict[str, Any]) -> None:
    for parameter in command.params:
        name = parameter.name
        if name in options and name not in given and name in ctx.params:
            ctx.params[name] = parameter.type_cast_value(ctx, options[name])


def _read_key(path: Path) -> str:
    """The public key in a file. What it says is checked with the seed."""
    try:
        with path.open("rb") as file:
            return file.read(_MAX_KEY).decode("utf-8", "replace").strip()
    except OSError as error:
        raise ConfigError("ssh-key", f"{path} cannot be read: {error.strerror}") from error


def _parse_size(text: str | None) -> int | None:
    if text is None:
        return None
    try:
        return parse_size(text)
    except ValueError as error:
        raise ConfigError("size", str(error)) from error


def _own_user() -> str:
    """The account of who runs this, if a guest can have one like it."""
    import pwd
    import re

    try:
        name = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return "manor"
    return name if re.fullmatch(r"[a-z_][a-z0-9_-]{0,31}", name) else "manor"


def current_run() -> NamedRun | None:
    """The run of a VM with a name that this command is, if it is one."""
    found = click.get_current_context().obj
    return found if isinstance(found, NamedRun) else None
