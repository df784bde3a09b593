"""Snapshots and checkpoints of a domain."""

from __future__ import annotations

from manor.client.handle import Handle
from manor.rpc.protocol import records


class Snapshot(Handle[records.Snapshot]):
    """A snapshot: disks, memory or both as they were."""

    __slots__ = ()

    @property
    def name(self) -> str:
        """Its name."""
        return self.record.name

    async def xml(self, flags: int = 0) -> str:
        """Its description."""
        xml: str = await self._call("domain_snapshot_get_xml_desc", flags)
        return xml

    async def revert(self, flags: int = 0) -> None:
        """Bring the domain back to it. flags: 1 running, 2 paused, 4 even if that loses something."""
        await self._call("domain_revert_to_snapshot", flags)

    async def delete(self, flags: int = 0) -> None:
        """Delete it. flags: 1 with its children, 2 only what libvirt knows of it, 4 only its children."""
        await self._call("domain_snapshot_delete", flags)

    async def parent(self) -> Snapshot:
        """The snapshot that was current when it was taken."""
        return Snapshot(self.connection, await self._call("domain_snapshot_get_parent", 0))

    async def children(self, flags: int = 0) -> list[Snapshot]:
        """Snapshots taken while it was current."""
        found, _ = await self._call("domain_snapshot_list_all_children", 1, flags)
        return [Snapshot(self.connection, record) for record in found]

    async def is_current(self) -> bool:
        """Whether the next snapshot has it as its parent."""
        return bool(await self._call("domain_snapshot_is_current", 0))

    async def has_metadata(self) -> bool:
        """Whether the daemon knows more of it than its image."""
        return bool(await self._call("domain_snapshot_has_metadata", 0))


class Checkpoint(Handle[records.Checkpoint]):
    """A checkpoint: from here on is known what was written."""

    __slots__ = ()

    @property
    def name(self) -> str:
        """Its name."""
        return self.record.name

    async def xml(self, flags: int = 0) -> str:
        """Its description. flags: 4 with sizes."""
        xml: str = await self._call("domain_checkpoint_get_xml_desc", flags)
        return xml

    async def delete(self, flags: int = 0) -> None:
        """Delete it."""
        await self._call("domain_checkpoint_delete", flags)

    async def parent(self) -> Checkpoint:
        """The checkpoint before it."""
        return Checkpoint(self.connection, await self._call("domain_checkpoint_get_parent", 0))

    async def children(self, flags: int = 0) -> list[Checkpoint]:
        """Checkpoints after it."""
        found, _ = await self._call("domain_checkpoint_list_all_children", 1, flags)
        return [Checkpoint(self.connection, record) for record in found]
