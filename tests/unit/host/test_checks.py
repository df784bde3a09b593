"""Every check of the host, on a host that is good and on hosts that are not."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest

from manor.accel.choose import Choice
from manor.accel.kvm import cpuid
from manor.accel.kvm.probe import KvmState, Verdict
from manor.base.errors import HostError
from manor.engine.build import NATIVE_MODULES
from manor.guests.cache import Cache
from manor.guests.default import MANIFEST_VERSION
from manor.host import engine, guests, kvm, processor, resources
from manor.host.examine import TOPICS, examine
from manor.host.finding import Finding, can_run
from manor.host.host import Host, Node
from manor.testing.fake_accel import FakeAccel
from manor.testing.fake_host import KVM_GROUP, USER, USER_GROUP, FakeHost, good_host

USABLE = Verdict(KvmState.USABLE, "/dev/kvm runs guests on the processor (4,000 MIPS)", mips=4000.04, api_version=12)
EMULATED = Verdict(KvmState.EMULATED, "/dev/kvm runs ring 0 at 0.9 MIPS", "Use --accel dbt.", mips=0.9)
REFUSED = Verdict(KvmState.NO_PERMISSION, "cannot open /dev/kvm: Permission denied", "Join the group kvm.")
ABSENT = Verdict(KvmState.NO_DEVICE, "cannot open /dev/kvm: No such file or directory", "Load the module.")
BUSY = Verdict(KvmState.BUSY, "cannot create a virtual machine: busy", "End the other hypervisor's machines.")
V1 = " ".join(processor.LEVELS[0])
V2 = V1 + " " + " ".join(processor.LEVELS[1])
BUILT = Finding("engine", "ok", "all built")
NOT_BUILT = Finding("engine", "missing", "the engine's native parts are not built", engine.BUILD)
DEVICE = "/dev/kvm"
OWN_CGROUP = f"/sys/fs/cgroup/user.slice/user-{USER}.slice/user@{USER}.service"
CGROUPS_OF_ALL = "/sys/fs/cgroup/cgroup.controllers"

Check = Callable[[FakeHost], Finding]


def access(verdict: Verdict) -> Check:
    return lambda host: kvm.check_access(host, verdict)


def worth(verdict: Verdict) -> Check:
    return lambda host: kvm.check_worth(host, verdict)


def accelerator(verdict: Verdict, built: Finding = BUILT) -> Check:
    return lambda host: engine.check_accelerator(host, verdict, built)


def build_engine(root: Path, without: frozenset[str] = frozenset(), suffix: str = EXTENSION_SUFFIXES[0]) -> Path:
    """An installed package whose native parts are there, except some."""
    for name in NATIVE_MODULES:
        if name not in without:
            path = root.joinpath(*name.split("."))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.with_name(path.name + suffix).touch()
    for name in set(engine.TABLES) - without:
        path = root / "manor" / "engine" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def check_engine(without: frozenset[str] = frozenset(), suffix: str = EXTENSION_SUFFIXES[0]) -> Check:
    return lambda host: engine.check_engine(build_engine(host.path("/lib"), without, suffix))


def fill_cache(root: Path) -> Path:
    """A cache with the default guest."""
    cache = Cache(root)
    cache.store("guest/cloud/vmlinuz", b"KERNEL")
    cache.store("guest/cloud/parts.cpio", b"PARTS")
    manifest = {
        "format": MANIFEST_VERSION, "version": "6.1-9", "kernel": "guest/cloud/vmlinuz",
        "parts": "guest/cloud/parts.cpio",
    }  # fmt: skip
    cache.store("guest/cloud/manifest.json", json.dumps(manifest).encode())
    return root


def default_guest(can_fetch: bool, spoil: Callable[[Path], object] | None = None) -> Check:
    def check(host: FakeHost) -> Finding:
        root = fill_cache(host.path("/cache"))
        if spoil is not None:
            spoil(root / "guest" / "cloud")
        before = sorted(root.rglob("*"))
        finding = guests.check_default_guest(can_fetch, root)
        assert sorted(root.rglob("*")) == before
        return finding

    return check


def nothing(host: FakeHost) -> None:
    """The good host."""


def node(mode: int, gid: int) -> Callable[[FakeHost], None]:
    return lambda host: host.nodes.update({DEVICE: Node(mode, 0, gid)})


def flags(text: str) -> Callable[[FakeHost], None]:
    return lambda host: host.set_flags(text)


def file(path: str, text: str) -> Callable[[FakeHost], None]:
    return lambda host: host.write(path, text)


def without(*paths: str) -> Callable[[FakeHost], None]:
    def spoil(host: FakeHost) -> None:
        for path in paths:
            host.remove(path)

    return spoil


def all_of(*steps: Callable[[FakeHost], None]) -> Callable[[FakeHost], None]:
    def spoil(host: FakeHost) -> None:
        for step in steps:
            step(host)

    return spoil


# topic, verdict, what happened to the host, the check, a part of the text, a part of the fix (empty: there is none)
CASES: list[tuple[str, str, Callable[[FakeHost], None], Check, str, str]] = [
    ("system", "ok", nothing, processor.check_system, "Linux 6.1.0 on x86_64", ""),
    ("system", "problem", nothing, lambda host: processor.check_system(replace(host, machine="aarch64")),
     "Linux 6.1.0 on aarch64", "Use a host with Linux"),
    ("system", "problem", nothing, lambda host: processor.check_system(replace(host, system="FreeBSD")),
     "FreeBSD", "Use a host with Linux"),
    ("cpu", "ok", nothing, processor.check_cpu, "A Processor: x86-64-v3 (to v4 it lacks avx512bw, ", ""),
    ("cpu", "ok", flags(V2), processor.check_cpu, "x86-64-v2 (to v3 it lacks abm, avx,", ""),
    ("cpu", "missing", flags(V1), processor.check_cpu, "x86-64-v1 (to v2 it lacks cx16,", "level x86-64-v2"),
    ("cpu", "missing", flags("fpu"), processor.check_cpu, "below x86-64-v1", "level x86-64-v2"),
    ("cpu", "note", without("/proc/cpuinfo"), processor.check_cpu, "does not tell", ""),
    ("virtualization", "ok", nothing, processor.check_virtualization, "VT-x", ""),
    ("virtualization", "ok", flags("svm"), processor.check_virtualization, "AMD-V", ""),
    ("virtualization", "missing", flags(V2), processor.check_virtualization, "neither", "in the firmware"),
    ("virtualization", "missing", flags("hypervisor"), processor.check_virtualization, "neither", "Enable nested"),
    ("nested", "ok", nothing, processor.check_nested, "no virtual machine", ""),
    ("nested", "note", flags("hypervisor"), processor.check_nested, "virtual machine: guests are nested", ""),
    ("nested", "note",
     all_of(flags("hypervisor"), file("/sys/class/dmi/id/sys_vendor", "Maker"),
            file("/sys/class/dmi/id/product_name", "Cloud")),
     processor.check_nested, "(Maker Cloud)", ""),
    ("kvm-device", "ok", nothing, kvm.check_device, "is there", ""),
    ("kvm-device", "missing", without(DEVICE), kvm.check_device, "not loaded", "sudo modprobe kvm_intel"),
    ("kvm-device", "missing", all_of(without(DEVICE), flags("svm")), kvm.check_device, "", "sudo modprobe kvm_amd"),
    ("kvm-device", "missing", all_of(without(DEVICE), flags(V2)), kvm.check_device, "no virtualization", ""),
    ("kvm-device", "missing", all_of(without(DEVICE), file("/sys/module/kvm_intel/x", "")), kvm.check_device,
     "as in a container", "--device /dev/kvm"),
    ("kvm-access", "ok", nothing, access(USABLE), "may open", ""),
    ("kvm-access", "note", without(DEVICE), access(ABSENT), "not looked at", ""),
    ("kvm-access", "missing", nothing, lambda host: kvm.check_access(replace(host, gids=frozenset({1})), REFUSED),
     "mode 660, group kvm", 'Join the group kvm and log in anew: sudo usermod -aG kvm "$USER".'),
    ("kvm-access", "missing", file("/etc/group", f"kvm:x:{KVM_GROUP}:other,someone\n"),
     lambda host: kvm.check_access(replace(host, gids=frozenset({1})), REFUSED), "not yet at its last login",
     "newgrp kvm"),
    ("kvm-access", "missing", file("/etc/group", "root:x:0:\n"),
     lambda host: kvm.check_access(replace(host, gids=frozenset({1})), REFUSED), f"group {KVM_GROUP}",
     f"--group-add {KVM_GROUP}"),
    ("kvm-access", "missing", node(0o600, 0), access(REFUSED), "mode 600, group root", "group kvm: sudo chgrp kvm"),
    ("kvm-access", "missing", all_of(node(0o600, 0), file("/etc/group", "root:x:0:\n")), access(REFUSED), "",
     "sudo groupadd --system kvm && sudo chgrp kvm"),
    ("kvm-access", "missing", nothing, access(REFUSED), "although its rights", "--device /dev/kvm"),
    ("kvm-access", "missing", nothing, lambda host: kvm.check_access(replace(host, uid=0), REFUSED), "although",
     "--device /dev/kvm"),
    ("kvm", "ok", nothing, worth(USABLE), "usable: /dev/kvm runs guests on the processor (4,000 MIPS)", ""),
    ("kvm", "note", nothing, worth(EMULATED), "emulated: /dev/kvm runs ring 0 at 0.9 MIPS", "Use --accel dbt."),
    ("kvm", "note", nothing, worth(REFUSED), "not measured, as /dev/kvm may not be opened", ""),
    ("kvm", "note", without(DEVICE), worth(ABSENT), "not measured, as there is no /dev/kvm", ""),
    ("kvm", "missing", nothing, worth(ABSENT), "no device: cannot open", "Load the module."),
    ("kvm", "missing", nothing, worth(BUSY), "busy: cannot create", "End the other"),
    ("engine", "ok", nothing, check_engine(), f"all {len(NATIVE_MODULES)} native modules", ""),
    ("engine", "missing", nothing, check_engine(frozenset(NATIVE_MODULES)), "native parts are not built", "make setup"),
    ("engine", "missing", nothing, check_engine(frozenset(NATIVE_MODULES[3:5])),
     f"2 of the engine's native parts are not built, for example {NATIVE_MODULES[3]}", "make setup"),
    ("engine", "missing", nothing, check_engine(frozenset(engine.TABLES[:1])), "isa/x86/tables.bin", "make setup"),
    ("engine", "missing", nothing, check_engine(suffix=".cpython-30-other.so"), "another Python", "make setup"),
    ("accelerator", "ok", nothing, accelerator(USABLE, NOT_BUILT), "auto takes kvm: /dev/kvm runs guests", ""),
    ("accelerator", "ok", nothing, accelerator(EMULATED), "auto takes fake: binary translation, as kvm is", ""),
    ("accelerator", "ok", flags(V1), accelerator(USABLE), "auto takes kvm", ""),
    ("accelerator", "problem", nothing, accelerator(REFUSED, NOT_BUILT), "kvm is no permission, and the", "make setup"),
    ("accelerator", "problem", flags(V1), accelerator(ABSENT), "the engine needs x86-64-v2", "VT-x or AMD-V"),
    ("packages", "ok", nothing, lambda host: guests.check_packages(True), "apt", ""),
    ("packages", "missing", nothing, lambda host: guests.check_packages(False), "no apt", "--kernel FILE"),
    ("default-guest", "ok", nothing, default_guest(False), "kernel 6.1-9 is in the cache", ""),
    ("default-guest", "note", nothing, default_guest(True, lambda path: (path / "vmlinuz").unlink()),
     "not in the cache; the first start fetches it", "manor run"),
    ("default-guest", "note", nothing, default_guest(True, lambda path: (path / "vmlinuz").write_text("rubbish")),
     "is damaged", "manor run"),
    ("default-guest", "missing", nothing, default_guest(False, lambda path: (path / "manifest.json").unlink()),
     "not in the cache", "--kernel FILE"),
    ("huge-pages", "ok", nothing, resources.check_huge_pages, "gets transparent huge pages", ""),
    ("huge-pages", "note", file("/sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never"),
     resources.check_huge_pages, "set to madvise", "echo always | sudo tee /sys/kernel"),
    ("huge-pages", "missing",
     all_of(without("/sys/kernel/mm/transparent_hugepage/enabled"),
            file("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", "64\n")),
     resources.check_huge_pages, "no transparent huge pages; 64 reserved ones are not used", ""),
    ("cgroups", "ok", nothing, resources.check_cgroups, "v2, with cpu, cpuset, io, memory, pids", ""),
    ("cgroups", "ok", nothing, lambda host: resources.check_cgroups(replace(host, uid=0)), "v2, with", ""),
    ("cgroups", "note", file(f"{OWN_CGROUP}/cgroup.controllers", "cpu memory pids"), resources.check_cgroups,
     "v2, but cpuset, io are not delegated", "Delegate=cpu cpuset io memory pids"),
    ("cgroups", "missing", file(f"{OWN_CGROUP}/cgroup.controllers", "cpuset cpu io pids"), resources.check_cgroups,
     "memory is not delegated", "Delegate="),
    ("cgroups", "missing", file(CGROUPS_OF_ALL, "pids"), lambda host: resources.check_cgroups(replace(host, uid=0)),
     "are not delegated", "Start the host with"),
    ("cgroups", "missing", without(f"{OWN_CGROUP}/cgroup.procs"), resources.check_cgroups, "none is delegated",
     "sudo loginctl enable-linger"),
    ("cgroups", "missing", without(CGROUPS_OF_ALL), resources.check_cgroups, "v1", "unified_cgroup_hierarchy=1"),
    ("namespaces", "ok", nothing, resources.check_namespaces, "allowed; kinds: mnt, user", ""),
    ("namespaces", "ok",
     without("/proc/self/ns/user", "/proc/self/ns/mnt", "/proc/self/ns/pid_for_children"), resources.check_namespaces,
     "user namespaces are allowed", ""),
    ("namespaces", "missing", without("/proc/self/ns/user", "/proc/sys/user/max_user_namespaces"),
     resources.check_namespaces, "no user namespaces", ""),
    ("namespaces", "missing", file("/proc/sys/user/max_user_namespaces", "0\n"), resources.check_namespaces,
     "user.max_user_namespaces is 0", "sudo sysctl -w user.max_user_namespaces=28633"),
    ("namespaces", "missing", file("/proc/sys/kernel/unprivileged_userns_clone", "0\n"), resources.check_namespaces,
     "", "sudo sysctl -w kernel.unprivileged_userns_clone=1"),
    ("namespaces", "missing", file("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1\n"),
     resources.check_namespaces, "", "kernel.apparmor_restrict_unprivileged_userns=0"),
    ("namespaces", "ok", file("/proc/sys/kernel/unprivileged_userns_clone", "0\n"),
     lambda host: resources.check_namespaces(replace(host, uid=0)), "allowed", ""),
]  # fmt: skip


@pytest.fixture(autouse=True)
def fake_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("manor.accel.choose._load_dbt", FakeAccel)


@pytest.mark.parametrize(
    ("topic", "verdict", "spoil", "check", "text", "fix"),
    CASES,
    ids=[f"{case[0]}-{case[1]}-{number}" for number, case in enumerate(CASES)],
)
def test_check(
    tmp_path: Path, topic: str, verdict: str, spoil: Callable[[FakeHost], None], check: Check, text: str, fix: str
) -> None:
    host = good_host(tmp_path)
    spoil(host)
    finding = check(host)
    assert (finding.topic, finding.verdict) == (topic, verdict)
    assert text in finding.text
    assert fix in finding.fix
    assert bool(fix) == bool(finding.fix)
    assert not finding.text.endswith(".")
    assert not finding.fix or (finding.fix[0].isupper() and finding.fix.endswith("."))
    assert finding.facts, "scripts learn nothing"
    json.dumps(finding.as_dict())


def test_every_check_is_exercised_with_a_good_and_a_bad_host() -> None:
    good = {topic for topic, verdict, *_ in CASES if verdict == "ok"}
    bad = {topic for topic, verdict, *_ in CASES if verdict != "ok"}
    assert good == set(TOPICS)
    assert bad == set(TOPICS)


def test_facts_of_a_topic_have_the_same_names_on_every_host(tmp_path: Path) -> None:
    names: dict[str, set[frozenset[str]]] = {}
    for number, (topic, _, spoil, check, _, _) in enumerate(CASES):
        host = good_host(tmp_path / str(number))
        spoil(host)
        names.setdefault(topic, set()).add(frozenset(check(host).facts))
    assert {topic: len(found) for topic, found in names.items() if len(found) != 1} == {}


def test_report_has_each_topic_once_in_order(tmp_path: Path) -> None:
    findings = examine(good_host(tmp_path), USABLE)
    assert [finding.topic for finding in findings] == list(TOPICS)
    assert can_run(findings)


def test_engine_that_does_not_load_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str, verdict: Verdict) -> Choice:
        raise HostError("the engine's native parts are not built (undefined symbol)")

    monkeypatch.setattr("manor.host.engine.choose", refuse)
    finding = engine.check_accelerator(good_host(tmp_path), ABSENT, BUILT)
    assert (finding.verdict, finding.fix) == ("problem", engine.BUILD)
    assert "undefined symbol" in finding.text
    assert not can_run([finding])


def test_cache_without_a_home_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise RuntimeError

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    finding = guests.check_default_guest(can_fetch=False)
    assert finding.verdict == "missing"
    assert "set XDG_CACHE_HOME" in finding.text


@pytest.mark.parametrize("count", range(5))
def test_level_needs_all_of_each_level(count: int) -> None:
    features = frozenset().union(*processor.LEVELS[:count])
    assert processor.level(features) == count
    for feature in processor.LEVELS[count - 1] if count else ():
        assert processor.level(features - {feature}) == count - 1
    # A higher level does not make up for a lower one.
    assert processor.level(features | processor.LEVELS[3]) == (4 if count == 3 else count)


def test_levels_are_those_that_guests_under_kvm_are_given() -> None:
    linux = {"sse3": "pni", "sse4.1": "sse4_1", "sse4.2": "sse4_2", "lahf": "lahf_lm", "lzcnt": "abm"}
    given = [{linux.get(f.name, f.name) for f in features} for features in (cpuid._V2, cpuid._V3)]
    assert given[0] == processor.LEVELS[1]
    assert given[1] - {"osxsave"} == processor.LEVELS[1] | processor.LEVELS[2]


def test_real_files(tmp_path: Path) -> None:
    path = tmp_path / "dev" / "kvm"
    path.parent.mkdir()
    path.touch()
    path.chmod(0o640)
    host = Host(tmp_path)
    found = host.node(DEVICE)
    assert found is not None
    assert (found.mode, found.uid, found.group_may_open) == (0o640, os.geteuid(), False)
    assert (host.node("/dev/none"), host.read("/dev"), host.names("/none")) == (None, None, [])
    assert (host.names("/dev"), host.can_write(DEVICE), host.can_write("/none")) == (["kvm"], True, False)
    assert (Host().uid, Host().system) == (os.geteuid(), os.uname().sysname)


def test_damaged_account_files_are_no_error(tmp_path: Path) -> None:
    host = good_host(tmp_path)
    host.write("/etc/group", "\nkvm\nkvm:x:many:\n:::\n")
    host.write("/etc/passwd", "nobody\n")
    assert host.group_name(KVM_GROUP) is None
    assert not host.is_member(USER_GROUP)
