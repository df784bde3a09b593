"""A named VM's own part of its machine: name, disks, identity, and credentials for its guest."""

from __future__ import annotations

from dataclasses import replace

from manor.instances.config import InstanceConfig
from manor.instances.instance import Instance
from manor.spec.block import DiskSpec
from manor.spec.firmware import SmbiosSpec, credential
from manor.spec.machine import MachineSpec

_SEED_SERIAL = "manor-seed"


def with_root(instance: Instance, config: InstanceConfig, others: tuple[DiskSpec, ...]) -> tuple[DiskSpec, ...]:
    """The VM's root disk before the `others`."""
    if not config.disk:
        return others
    return (DiskSpec(str(instance.disk), format="qcow2", serial="root"), *others)


def complete(spec: MachineSpec, instance: Instance, config: InstanceConfig) -> MachineSpec:
    """`spec` with the VM's seed behind its other disks, its name and identity, and a port for its agent."""
    disks = spec.disks
    if config.disk and instance.seed.exists():
        disks = (*disks, DiskSpec(str(instance.seed), format="raw", read_only=True, serial=_SEED_SERIAL))
    nics = tuple(replace(nic, hostname=nic.hostname or config.name.lower()) for nic in spec.nics)
    smbios = SmbiosSpec(config.uuid, config.uuid, (*spec.smbios.strings, *credentials(config)))
    return replace(spec, name=config.name, disks=disks, nics=nics, smbios=smbios, agent=True)


def credentials(config: InstanceConfig) -> tuple[str, ...]:
    """For guests with systemd that have no cloud-init: root's ssh keys.

    Source: systemd 252, "System and Service Credentials", ssh.authorized_keys.root.
    """
    keys = (config.seed or {}).get("keys")
    if not isinstance(keys, list) or not keys or not all(isinstance(key, str) for key in keys):
        return ()
    return (credential("ssh.authorized_keys.root", "".join(f"{key}\n" for key in keys).encode()),)
