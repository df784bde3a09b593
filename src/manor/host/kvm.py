"""KVM: there, usable by this user, and worth using. The probe decides; what it cannot know is looked up here."""

from __future__ import annotations

from typing import Final

from manor.accel.kvm.ioctl import DEVICE
from manor.accel.kvm.probe import KvmState, Verdict
from manor.host import processor
from manor.host.finding import Fact, Finding
from manor.host.host import Host

_PASS_DEVICE: Final = f"Start the container with --device {DEVICE}."


def check_device(host: Host) -> Finding:
    if host.exists(DEVICE):
        return Finding("kvm-device", "ok", f"{DEVICE} is there", facts={"exists": True})
    features = processor.flags(host)
    module = "kvm_amd" if "svm" in features else "kvm_intel"
    if any(host.exists(f"/sys/module/{name}") for name in ("kvm_intel", "kvm_amd")):
        text, fix = f"the host's kernel has KVM, but there is no {DEVICE} here, as in a container", _PASS_DEVICE
    elif features.isdisjoint({"vmx", "svm"}):
        text, fix = f"there is no {DEVICE}: the processor gives no virtualization", ""
    else:
        text, fix = f"there is no {DEVICE}: the module is not loaded", f"Load the module: sudo modprobe {module}."
    return Finding("kvm-device", "missing", text, fix, {"exists": False})


def check_access(host: Host, verdict: Verdict) -> Finding:
    """Whether this user may open the device; if not, the group or the command that is missing."""
    node = host.node(DEVICE)
    if node is None:
        facts: dict[str, Fact] = {"may_open": None, "group": None}
        return Finding("kvm-access", "note", f"not looked at, as there is no {DEVICE}", facts=facts)
    group = host.group_name(node.gid)
    facts = {"may_open": verdict.state is not KvmState.NO_PERMISSION, "group": group}
    if verdict.state is not KvmState.NO_PERMISSION:
        return Finding("kvm-access", "ok", f"this user may open {DEVICE}", facts=facts)
    rights = f"mode {node.mode:03o}, group {group or node.gid}"
    text = f"this user may not open {DEVICE} ({rights})"
    if host.uid == 0 or (node.group_may_open and node.gid in host.gids):
        text = f"{DEVICE} may not be opened, although its rights ({rights}) would allow it"
        fix = _PASS_DEVICE
    elif not node.group_may_open or node.gid == 0:
        make = "" if host.has_group("kvm") else "sudo groupadd --system kvm && "
        fix = (
            f"Give it to the group kvm: {make}sudo chgrp kvm {DEVICE} && sudo chmod 660 {DEVICE} && "
            'sudo usermod -aG kvm "$USER", and log in anew.'
        )
    elif group is None:
        fix = f"Start the container with --group-add {node.gid}."
    elif host.is_member(node.gid):
        text += "; it is in that group, but was not yet at its last login"
        fix = f"Log in anew, or for this shell: newgrp {group}."
    else:
        fix = f'Join the group {group} and log in anew: sudo usermod -aG {group} "$USER".'
    return Finding("kvm-access", "missing", text, fix, facts)


def check_worth(host: Host, verdict: Verdict) -> Finding:
    """What the probe measured: on the processor or emulated, and how fast."""
    facts: dict[str, Fact] = {
        "state": verdict.state.value,
        "mips": None if verdict.mips is None else round(verdict.mips, 1),
        "syscall_works": verdict.syscall_works,
        "api_version": verdict.api_version,
        "missing": list(verdict.missing),
    }
    match verdict.state:
        case KvmState.USABLE:
            return Finding("kvm", "ok", str(verdict), facts=facts)
        case KvmState.EMULATED:
            return Finding("kvm", "note", str(verdict), verdict.fix, facts)
        case KvmState.NO_PERMISSION:
            return Finding("kvm", "note", f"not measured, as {DEVICE} may not be opened", facts=facts)
        case KvmState.NO_DEVICE if not host.exists(DEVICE):
            return Finding("kvm", "note", f"not measured, as there is no {DEVICE}", facts=facts)
        case _:
            return Finding("kvm", "missing", str(verdict), verdict.fix, facts)
