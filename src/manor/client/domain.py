"""A domain: its life cycle, its description, and how it stands. What else there is to do with one: `domain_tuning`."""

from __future__ import annotations

from collections.abc import Iterable

from manor.client.domain_tuning import DomainTuning
from manor.client.params import Params, Value, from_params, to_params
from manor.client.results import BlockJobInfo, ControlInfo, DomainInfo, DomainState, JobInfo
from manor.client.snapshot import Checkpoint, Snapshot
from manor.client.stream import Stream
from manor.rpc.protocol import records


class Domain(DomainTuning):
    """A domain. `flags` everywhere: libvirt's, of the function of that name, or 0."""

    __slots__ = ()

    @property
    def id(self) -> int:
        """The id it ran with when it was looked up; -1 if it did not run."""
        return self.record.id

    # Life cycle.

    async def create(self, flags: int = 0, files: tuple[int, ...] = ()) -> None:
        """Start it. files: descriptors for its first process, which are closed here once sent."""
        if files:
            procedure = "domain_create_with_files"
        elif flags:
            procedure = "domain_create_with_flags"
        else:
            # The oldest form gives no new id, but every daemon has it.
            await self._call("domain_create")
            self.record = await self.connection.call("domain_lookup_by_uuid", self.record.uuid)
            return
        self.record = await self.connection.call(procedure, self.record, flags, files=files)

    async def shutdown(self, flags: int = 0) -> None:
        """Ask the guest to shut down; returns before it has."""
        if flags:
            await self._call("domain_shutdown_flags", flags)
        else:
            await self._call("domain_shutdown")

    async def destroy(self, flags: int = 0) -> None:
        """Stop it at once, as if power was cut."""
        if flags:
            await self._call("domain_destroy_flags", flags)
        else:
            await self._call("domain_destroy")

    async def reboot(self, flags: int = 0) -> None:
        """Ask the guest to restart."""
        await self._call("domain_reboot", flags)

    async def reset(self, flags: int = 0) -> None:
        """Restart it as by the reset button."""
        await self._call("domain_reset", flags)

    async def suspend(self) -> None:
        """Stop its vCPUs."""
        await self._call("domain_suspend")

    async def resume(self) -> None:
        """Let its vCPUs run again."""
        await self._call("domain_resume")

    async def undefine(self, flags: int = 0) -> None:
        """Forget its definition; a running one becomes transient."""
        if flags:
            await self._call("domain_undefine_flags", flags)
        else:
            await self._call("domain_undefine")

    async def rename(self, name: str, flags: int = 0) -> None:
        """Give it another name."""
        await self._call("domain_rename", name, flags)
        self.record = self.record._replace(name=name)

    async def save(self, path: str, xml: str | None = None, flags: int = 0) -> None:
        """Save its memory to a file on the host and stop it. xml: what it is restored as."""
        if xml is None and not flags:
            await self._call("domain_save", path)
        else:
            await self._call("domain_save_flags", path, xml, flags)

    async def save_params(self, params: Params | Iterable[records.TypedParam], flags: int = 0) -> None:
        """As `save`, with parameters: `file`, `dxml`, `image_format`, `parallel.channels`."""
        await self._call("domain_save_params", to_params(params), flags)

    async def managed_save(self, flags: int = 0) -> None:
        """Save its memory where the daemon keeps it and stop it; the next start restores it."""
        await self._call("domain_managed_save", flags)

    async def has_managed_save(self) -> bool:
        """Whether the next start restores it."""
        return bool(await self._call("domain_has_managed_save_image", 0))

    async def remove_managed_save(self) -> None:
        """Drop what `managed_save` kept."""
        await self._call("domain_managed_save_remove", 0)

    async def managed_save_xml(self, flags: int = 0) -> str:
        """The description in the managed save."""
        xml: str = await self._call("domain_managed_save_get_xml_desc", flags)
        return xml

    async def define_managed_save(self, xml: str, flags: int = 0) -> None:
        """Change the description in the managed save."""
        await self._call("domain_managed_save_define_xml", xml, flags)

    async def core_dump(self, path: str, flags: int = 0, dump_format: int | None = None) -> None:
        """Dump its memory to a file on the host. dump_format: libvirt's virDomainCoreDumpFormat."""
        if dump_format is None:
            await self._call("domain_core_dump", path, flags)
        else:
            await self._call("domain_core_dump_with_format", path, dump_format, flags)

    async def abort_job(self, flags: int = 0) -> None:
        """Give up the job that it is busy with."""
        if flags:
            await self._call("domain_abort_job_flags", flags)
        else:
            await self._call("domain_abort_job")

    async def set_lifecycle_action(self, kind: int, action: int, flags: int = 0) -> None:
        """What happens when it powers off, reboots or crashes."""
        await self._call("domain_set_lifecycle_action", kind, action, flags)

    # Description and state.

    async def xml(self, flags: int = 0) -> str:
        """Its description. flags: 1 with secrets, 2 the inactive one, 8 fit for migration."""
        xml: str = await self._call("domain_get_xml_desc", flags)
        return xml

    async def info(self) -> DomainInfo:
        """State, memory, vCPUs and CPU time."""
        return DomainInfo(*await self._call("domain_get_info"))

    async def state(self) -> DomainState:
        """State and why."""
        return DomainState(*await self._call("domain_get_state", 0))

    async def control_info(self) -> ControlInfo:
        """How its VMM's control channel stands."""
        return ControlInfo(*await self._call("domain_get_control_info", 0))

    async def job_info(self) -> JobInfo:
        """The job that it is busy with."""
        return JobInfo(*await self._call("domain_get_job_info"))

    async def job_stats(self, flags: int = 0) -> tuple[int, dict[str, Value]]:
        """(type, statistics) of the job that it is busy with."""
        kind, params = await self._call("domain_get_job_stats", flags)
        return kind, from_params(params)

    async def is_active(self) -> bool:
        """Whether it runs."""
        return bool(await self._call("domain_is_active"))

    async def is_persistent(self) -> bool:
        """Whether it has a definition that outlives its run."""
        return bool(await self._call("domain_is_persistent"))

    async def is_updated(self) -> bool:
        """Whether its definition was changed since it was started."""
        return bool(await self._call("domain_is_updated"))

    async def os_type(self) -> str:
        """`hvm` and the like."""
        kind: str = await self._call("domain_get_os_type")
        return kind

    async def autostart(self) -> bool:
        """Whether it starts with the host."""
        return bool(await self._call("domain_get_autostart"))

    async def set_autostart(self, wanted: bool) -> None:
        """Start it with the host, or no longer."""
        await self._call("domain_set_autostart", int(wanted))

    async def hostname(self, flags: int = 0) -> str:
        """The guest's host name, from its agent or a lease."""
        name: str = await self._call("domain_get_hostname", flags)
        return name

    async def metadata(self, kind: int, uri: str | None = None, flags: int = 0) -> str:
        """kind: 0 description, 1 title, 2 the element of the namespace `uri`."""
        text: str = await self._call("domain_get_metadata", kind, uri, flags)
        return text

    async def set_metadata(
        self, kind: int, text: str | None, key: str | None = None, uri: str | None = None, flags: int = 0
    ) -> None:
        """The inverse; None removes it. key: prefix of the namespace."""
        await self._call("domain_set_metadata", kind, text, key, uri, flags)

    async def messages(self, flags: int = 0) -> list[str]:
        """What an administrator should know: deprecated features, taints."""
        texts: list[str] = await self._call("domain_get_messages", flags)
        return texts

    async def stats(self, stats: int = 0, flags: int = 0) -> dict[str, Value]:
        """Its statistics by name; 0 is all groups."""
        for _, found in await self.connection.domain_stats([self], stats, flags):
            return found
        return {}

    # Devices.

    async def attach_device(self, xml: str, flags: int = 0) -> None:
        """Add a device. flags: 1 to the running domain, 2 to the definition."""
        if flags:
            await self._call("domain_attach_device_flags", xml, flags)
        else:
            await self._call("domain_attach_device", xml)

    async def detach_device(self, xml: str, flags: int = 0) -> None:
        """Remove the device that the description fits."""
        if flags:
            await self._call("domain_detach_device_flags", xml, flags)
        else:
            await self._call("domain_detach_device", xml)

    async def detach_device_alias(self, alias: str, flags: int = 0) -> None:
        """Remove a device by its alias; returns before the guest has let it go."""
        await self._call("domain_detach_device_alias", alias, flags)

    async def update_device(self, xml: str, flags: int = 0) -> None:
        """Change a device, for example the medium of a drive."""
        await self._call("domain_update_device_flags", xml, flags)

    # Console, channel, screen.

    async def console(self, device: str | None = None, flags: int = 0) -> Stream:
        """Open its serial console, or the device of that alias. flags: 1 even if somebody has it open."""
        return await self._open("domain_open_console", device, flags)

    async def channel(self, name: str | None = None, flags: int = 0) -> Stream:
        """Open a channel to the guest."""
        return await self._open("domain_open_channel", name, flags)

    async def screenshot(self, screen: int = 0, flags: int = 0) -> tuple[str, Stream]:
        """(MIME type, picture) of a screen."""
        mime, stream = await self.connection.open_stream("domain_screenshot", self.record, screen, flags)
        return mime or "", stream

    async def open_graphics(self, index: int = 0, flags: int = 0) -> int:
        """A socket to its display `index`: a descriptor, which is the caller's. Only over a unix socket."""
        return await self.connection.call_for_file("domain_open_graphics_fd", self.record, index, flags)

    async def _open(self, procedure: str, *arguments: object) -> Stream:
        _, stream = await self.connection.open_stream(procedure, self.record, *arguments)
        return stream

    # Snapshots, checkpoints, backups.

    async def snapshots(self, flags: int = 0) -> list[Snapshot]:
        """Its snapshots."""
        found, _ = await self._call("domain_list_all_snapshots", 1, flags)
        return [Snapshot(self.connection, record) for record in found]

    async def snapshot(self, name: str) -> Snapshot:
        """The snapshot of that name."""
        return Snapshot(self.connection, await self._call("domain_snapshot_lookup_by_name", name, 0))

    async def has_current_snapshot(self) -> bool:
        """Whether a snapshot is current."""
        return bool(await self._call("domain_has_current_snapshot", 0))

    async def current_snapshot(self) -> Snapshot:
        """The snapshot that the next one will have as its parent."""
        return Snapshot(self.connection, await self._call("domain_snapshot_current", 0))

    async def create_snapshot(self, xml: str, flags: int = 0) -> Snapshot:
        """Take a snapshot."""
        return Snapshot(self.connection, await self._call("domain_snapshot_create_xml", xml, flags))

    async def checkpoints(self, flags: int = 0) -> list[Checkpoint]:
        """Its checkpoints."""
        found, _ = await self._call("domain_list_all_checkpoints", 1, flags)
        return [Checkpoint(self.connection, record) for record in found]

    async def checkpoint(self, name: str) -> Checkpoint:
        """The checkpoint of that name."""
        return Checkpoint(self.connection, await self._call("domain_checkpoint_lookup_by_name", name, 0))

    async def create_checkpoint(self, xml: str, flags: int = 0) -> Checkpoint:
        """Make a checkpoint."""
        return Checkpoint(self.connection, await self._call("domain_checkpoint_create_xml", xml, flags))

    async def begin_backup(self, xml: str, checkpoint_xml: str | None = None, flags: int = 0) -> None:
        """Start a backup job."""
        await self._call("domain_backup_begin", xml, checkpoint_xml, flags)

    async def backup_xml(self) -> str:
        """The backup job that runs."""
        xml: str = await self._call("domain_backup_get_xml_desc", 0)
        return xml

    # Jobs on disks.

    async def block_job_info(self, disk: str, flags: int = 0) -> BlockJobInfo | None:
        """The job on a disk, None if there is none."""
        found, *rest = await self._call("domain_get_block_job_info", disk, flags)
        return BlockJobInfo(*rest) if found else None

    async def abort_block_job(self, disk: str, flags: int = 0) -> None:
        """End the job on a disk. flags: 1 without waiting, 2 switch over to the copy."""
        await self._call("domain_block_job_abort", disk, flags)

    async def set_block_job_speed(self, disk: str, bandwidth: int, flags: int = 0) -> None:
        """bandwidth: MiB/s, or with flag 1 bytes/s; 0 is without limit."""
        await self._call("domain_block_job_set_speed", disk, bandwidth, flags)

    async def block_pull(self, disk: str, bandwidth: int = 0, flags: int = 0) -> None:
        """Bring the backing files' data into the disk's image."""
        await self._call("domain_block_pull", disk, bandwidth, flags)

    async def block_rebase(self, disk: str, base: str | None = None, bandwidth: int = 0, flags: int = 0) -> None:
        """Bring the data down to `base` into the disk's image, or copy it."""
        await self._call("domain_block_rebase", disk, base, bandwidth, flags)

    async def block_commit(
        self, disk: str, base: str | None = None, top: str | None = None, bandwidth: int = 0, flags: int = 0
    ) -> None:
        """Put the data of `top` and what is below it into `base`."""
        await self._call("domain_block_commit", disk, base, top, bandwidth, flags)

    async def block_copy(self, disk: str, xml: str, params: Params | None = None, flags: int = 0) -> None:
        """Mirror a disk to the destination that `xml` describes."""
        await self._call("domain_block_copy", disk, xml, to_params(params or {}), flags)
