"""Names for the shell's completion: of VMs and of images. Anything that goes wrong completes to nothing."""

from __future__ import annotations

import click

from manor.base.errors import ManorError


def vm_names() -> list[str]:
    from manor.instances.instance import Instances

    try:
        return [instance.name for instance in Instances().all()]
    except ManorError:
        return []


def image_names() -> list[str]:
    from manor.images.store import Store

    try:
        return [str(name) for image in Store().images() for name in image.names]
    except ManorError:
        return []


def complete_vm(context: click.Context, parameter: click.Parameter, typed: str) -> list[str]:
    """VMs that there are."""
    return [name for name in vm_names() if name.startswith(typed)]


def complete_running(context: click.Context, parameter: click.Parameter, typed: str) -> list[str]:
    """VMs that run."""
    from manor.instances.instance import Instances

    try:
        return [vm.name for vm in Instances().all() if vm.name.startswith(typed) and vm.running_pid() is not None]
    except ManorError:
        return []


def complete_image(context: click.Context, parameter: click.Parameter, typed: str) -> list[str]:
    """Images in the store."""
    return [name for name in image_names() if name.startswith(typed)]


def complete_runnable(context: click.Context, parameter: click.Parameter, typed: str) -> list[str]:
    """What `manor run` takes as a name: VMs, and images to make one of."""
    names = dict.fromkeys([*vm_names(), *(name for name in image_names() if ":" not in name)])
    return [name for name in names if name.startswith(typed)]
