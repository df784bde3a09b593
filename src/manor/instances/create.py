"""Make a named VM: its disk, its seed, its directory; complete or not at all."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import replace

from manor.base.errors import HostError
from manor.images.clone import clone
from manor.images.seed import SeedSpec, check_seed, write_seed
from manor.images.store import Store, StoredImage
from manor.instances.config import InstanceConfig
from manor.instances.instance import Instance, Instances


def create(
    instances: Instances,
    store: Store,
    config: InstanceConfig,
    image: StoredImage | None,
    size: int | None,
    seed: SeedSpec,
) -> Instance:
    """Make the VM of `config`. image: what its disk is cloned from. size: of the disk, None for the image's.

    seed: what its first boot is told.
    """
    check_seed(seed)
    config = replace(config, seed={"keys": list(seed.ssh_keys)})

    def fill(new: Instance, final: Instance) -> None:
        if image is None:
            return
        clone(store, image, new.disk, size, final=final.disk)
        _write(new, write_seed(seed))

    return instances.create(config, fill)


def _write(instance: Instance, seed: bytes) -> None:
    try:
        with instance.seed.open("wb") as file:
            file.write(seed)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise HostError.from_os_error(f"writing the seed {instance.seed}", error) from error


def remove(instances: Instances, store: Store, instance: Instance) -> None:
    """Remove a VM that does not run, with its disk."""
    digest = ""
    with suppress(HostError):  # a damaged configuration; the store sees by itself that the disk is gone
        digest = instance.config().digest
    instances.remove(instance)
    if digest:
        store.forget_user(digest, instance.disk)
