"""The domain document: a virtual machine as libvirt's clients describe it.

`parse` reads and checks the form; `manor.domain.xml.normal` fills in what clients rely on; `check` says what will not
be as it was asked for; `manor.domain.xml.to_spec` makes the machine's description of it.

Source: libvirt, "Domain XML format", https://libvirt.org/formatdomain.html.
"""

# Declarations are tables, laid out by hand.
# fmt: off
from __future__ import annotations

from dataclasses import dataclass, field

from manor.domain.names import DOMAIN_NAME_RULE, DOMAIN_NAMES
from manor.domain.xml import checker, reader, tree, writer
from manor.domain.xml.cpu import Cpu
from manor.domain.xml.devices import Devices
from manor.domain.xml.property import Element, Finding, note, part, parts, prop, raw
from manor.domain.xml.rules import domain_rules
from manor.domain.xml.tree import Node
from manor.domain.xml.tuning import NO_SHARES, BlkioTune, CpuSet, CpuTune, IothreadId, MemTune, NumaTune, PerfEvent
from manor.domain.xml.values import Choice, Flag, Integer, Present, Size, Support, Text, Uuid, ignored, refused

ROOT = "domain"
_PATH = Text(4096)
_RENAMED = ignored("it is started again under its own name")


@dataclass(frozen=True, slots=True, kw_only=True)
class Boot(Element):
    dev: str = prop("@dev", Choice("hd", judged={
        "cdrom": ignored("the first disk with a kernel is booted"),
        "fd": ignored("there is no floppy drive"), "network": ignored("nothing is booted from the network")}),
        "what is booted from", required=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry(Element):
    """A named text of the firmware's tables."""

    name: str = prop("@name", Text(64), "which text", required=True)
    value: str = prop(".", Text(1024), "the text", default="")


@dataclass(frozen=True, slots=True, kw_only=True)
class OemString(Element):
    """A text without a name."""

    value: str = prop(".", Text(1024), "the text", default="")


@dataclass(frozen=True, slots=True, kw_only=True)
class SysInfo(Element):
    """Texts of the firmware's tables (SMBIOS)."""

    type: str = prop("@type", Choice("smbios", judged={
        "fwcfg": refused("there is no fw_cfg device", "write type='smbios' and OEM strings")}),
        "which tables", required=True)
    system: tuple[Entry, ...] = parts("system/entry", Entry, "the system: `serial` and `uuid` reach the guest")
    oem_strings: tuple[OemString, ...] = parts("oemStrings/entry", OemString, "OEM strings")

    NOTES = (
        note("entry", "file of fw_cfg", ignored("there is no fw_cfg device")),
        note("bios", "texts of the BIOS", ignored("the tables name Manor's firmware")),
        note("baseBoard", "texts of the board", ignored("the tables have no board")),
        note("chassis", "texts of the chassis", ignored("the tables have no chassis")),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Timer(Element):
    name: str = prop("@name", Choice("tsc", "rtc", "pit", "hpet", "kvmclock", "hypervclock", "platform", "armvtimer"),
                     "the timer", required=True)
    present: bool | None = prop("@present", Flag(), "whether the guest has it")
    tickpolicy: str | None = prop("@tickpolicy", Choice("delay", "catchup", "merge", "discard"), "lost ticks")

    NOTES = tuple(
        note(name, "finer settings", ignored("timers are those of the machine"))
        for name in ("@track", "@frequency", "@mode", "catchup")
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SecLabel(Element):
    type: str | None = prop("@type", Choice("dynamic", "static", "none"), "who chooses the label")
    model: str | None = prop("@model", Text(64), "security model")
    relabel: bool | None = prop("@relabel", Flag(), "label files")
    label: str | None = prop("label", Text(4096), "label")
    baselabel: str | None = prop("baselabel", Text(4096), "label to start from")
    imagelabel: str | None = prop("imagelabel", Text(4096), "label of files")


@dataclass(frozen=True, slots=True, kw_only=True)
class Domain(Element):
    """A virtual machine. Amounts of memory in bytes; written in KiB."""

    type: str = prop("@type", Choice("kvm", "qemu", "test", judged=dict.fromkeys(
        ("xen", "lxc", "openvz", "vz", "bhyve", "vmware", "hyperv", "kqemu", "uml", "hvf", "parallels", "phyp",
         "vbox", "xenfv"), refused("another hypervisor is asked for", "write type='kvm' or type='qemu'"))),
        "hypervisor: `kvm` uses /dev/kvm, `qemu` translates", required=True)
    id: int | None = prop("@id", Integer(1, (1 << 31) - 1), "number of a running domain; written by the service")
    name: str = prop("name", Text(255, DOMAIN_NAMES, DOMAIN_NAME_RULE), "what others call it", required=True)
    uuid: str | None = prop("uuid", Uuid(), "identity; generated if it is missing")
    title: str | None = prop("title", Text(4096, r"[^\n]*", "one line"), "a title for people")
    description: str | None = prop("description", Text(), "a text for people")
    metadata: Node | None = raw("metadata", "what applications keep with the domain")
    memory: int = prop("memory", Size(), "RAM that the machine has", required=True)
    current_memory: int | None = prop("currentMemory", Size(), "RAM that the balloon leaves it")
    blkiotune: BlkioTune | None = part("blkiotune", BlkioTune, "shares of the host's disks", verdict=NO_SHARES)
    memtune: MemTune | None = part("memtune", MemTune, "limits of memory", verdict=NO_SHARES)
    vcpus: int = prop("vcpu", Integer(1, 4096), "vCPUs that there is room for", default=1)
    placement: str = prop("vcpu/@placement", Choice("static", "auto"), "how vCPUs are bound", default="static")
    cpuset: str | None = prop("vcpu/@cpuset", CpuSet(), "processors of the host", verdict=NO_SHARES)
    current_vcpus: int | None = prop("vcpu/@current", Integer(1, 4096), "vCPUs at start; all if it is missing")
    iothreads: int | None = prop("iothreads", Integer(0, 1 << 16), "threads for disks",
                                 verdict=ignored("there is one thread for requests"))
    iothread_ids: tuple[IothreadId, ...] = parts("iothreadids/iothread", IothreadId, "threads for disks, by number",
                                                 verdict=ignored("there is one thread for requests"))
    cputune: CpuTune | None = part("cputune", CpuTune, "shares of the host's processors", verdict=NO_SHARES)
    numatune: NumaTune | None = part("numatune", NumaTune, "memory nodes", verdict=NO_SHARES)
    partition: str | None = prop("resource/partition", Text(4096), "control group",
                                 verdict=ignored("the machine stays in its user's control group"))
    sysinfo: tuple[SysInfo, ...] = parts("sysinfo", SysInfo, "texts of the firmware's tables")
    firmware: str | None = prop("os/@firmware", Choice(judged=dict.fromkeys(
        ("efi", "bios"), refused("kernels are started without firmware", "remove the attribute firmware"))),
        "firmware")
    os_type: str = prop("os/type", Choice("hvm", judged=dict.fromkeys(
        ("exe", "xen", "linux", "xenpvh", "uml"), refused("a whole machine is made", "write hvm"))),
        "kind of guest", default="hvm")
    arch: str = prop("os/type/@arch", Choice("x86_64", judged={
        "i686": ignored("a 64-bit processor is made; 32-bit guests run on it"),
        **dict.fromkeys(("aarch64", "armv7l", "armv6l", "ppc64", "ppc64le", "ppc", "s390x", "riscv32", "riscv64",
                         "mips", "mipsel", "mips64", "mips64el", "sparc", "sparc64", "alpha", "m68k", "sh4",
                         "loongarch64", "i386"),
                        refused("the processor is an x86-64", "write arch='x86_64'"))}),
        "processor", default="x86_64")
    machine: str = prop("os/type/@machine", Choice("pc", others=ignored("there is one machine, `pc`")),
                        "machine", default="pc")
    kernel: str | None = prop("os/kernel", _PATH, "kernel; without it the first disk with a kernel is booted")
    initrd: str | None = prop("os/initrd", _PATH, "initial RAM disk")
    cmdline: str | None = prop("os/cmdline", Text(), "command line of the kernel")
    boot: tuple[Boot, ...] = parts("os/boot", Boot, "what is booted from")
    smbios_mode: str | None = prop("os/smbios/@mode", Choice("sysinfo", "emulate", judged={
        "host": refused("the host's tables are not shown to guests", "write mode='sysinfo'")}),
        "which tables the guest sees")
    acpi: bool = prop("features/acpi", Present(), "ACPI; the machine always has it", default=False)
    apic: bool = prop("features/apic", Present(), "APIC; the machine always has it", default=False)
    pae: bool = prop("features/pae", Present(), "PAE; the processor always has it", default=False)
    cpu: Cpu | None = part("cpu", Cpu, "the processor")
    clock: str = prop("clock/@offset", Choice("utc", judged={
        "localtime": ignored("the clock chip counts UTC"), "timezone": ignored("the clock chip counts UTC"),
        "variable": ignored("the clock chip counts UTC"), "absolute": ignored("the clock chip counts UTC")}),
        "what the clock chip counts", default="utc")
    timers: tuple[Timer, ...] = parts("clock/timer", Timer, "timers", verdict=ignored("timers are the machine's"))
    on_poweroff: str = prop("on_poweroff", Choice("destroy", "restart", judged={
        "preserve": ignored("nothing is left of a machine that is off; it is stopped"), "rename-restart": _RENAMED}),
        "what happens when the guest powers off", default="destroy")
    on_reboot: str = prop("on_reboot", Choice("destroy", "restart", judged={
        "preserve": ignored("it is stopped"), "rename-restart": _RENAMED}),
        "what happens when the guest reboots", default="restart")
    on_crash: str = prop("on_crash", Choice("destroy", "restart", "preserve", judged={
        "rename-restart": _RENAMED, **dict.fromkeys(
        ("coredump-destroy", "coredump-restart"), ignored("no core is dumped; the rest is done"))}),
        "what happens when the guest crashes", default="destroy")
    on_lockfailure: str | None = prop("on_lockfailure", Choice("poweroff", "restart", "pause", "ignore"),
                                      "what happens when a lock is lost",
                                      verdict=ignored("images are locked by the machine"))
    suspend_to_mem: bool | None = prop("pm/suspend-to-mem/@enabled", Flag(), "S3; the machine has none")
    suspend_to_disk: bool | None = prop("pm/suspend-to-disk/@enabled", Flag(), "S4; the machine has none")
    perf_events: tuple[PerfEvent, ...] = parts("perf/event", PerfEvent, "performance events",
                                               verdict=ignored("none are counted"))
    devices: Devices = field(default_factory=Devices, metadata=part("devices", Devices, "devices").metadata)
    seclabels: tuple[SecLabel, ...] = parts("seclabel", SecLabel, "labels of the process",
                                            verdict=ignored("the process is confined by Manor's own sandbox"))

    NOTES = (
        note("genid", "generation ID", refused("there is no generation ID device", "remove <genid>")),
        note("hwuuid", "identity in the tables", ignored("the tables have the domain's UUID")),
        note("maxMemory", "room for memory modules", ignored("memory modules are not plugged")),
        note("memory/@dumpCore", "memory in dumps of the host", ignored("memory is left out of dumps")),
        note("memoryBacking", "how memory is provided", ignored("memory is shared and private as devices need it")),
        note("vcpus", "vCPUs one by one", ignored("vCPUs are counted, not named")),
        note("defaultiothread", "threads for disks", ignored("there is one thread for requests")),
        note("idmap", "users of containers", ignored("it is no container")),
        note("resource/fibrechannel", "VMID", ignored("there is no Fibre Channel")),
        note("bootloader", "boot loader of Xen", refused("it is not Xen", "remove <bootloader>")),
        note("bootloader_args", "boot loader of Xen", ignored("it is not Xen")),
        note("os/loader", "firmware", refused("kernels are started without firmware", "remove <loader>")),
        note("os/nvram", "variables of the firmware", ignored("there is no firmware")),
        note("os/firmware", "features of the firmware", ignored("there is no firmware")),
        note("os/bootmenu", "menu of the firmware", ignored("there is no firmware")),
        note("os/bios", "settings of the firmware", ignored("there is no firmware")),
        note("os/dtb", "device tree", ignored("x86 has none")),
        note("os/acpi", "tables of the user's own", refused("the tables are the machine's", "remove <acpi>")),
        note("os/init", "first program of a container", ignored("it is no container")),
        *(
            note(f"features/{name}", doc, ignored(why))
            for name, doc, why in (
                ("hyperv", "enlightenments for Windows", "the guest does not see Hyper-V"),
                ("kvm", "settings of KVM", "the guest sees Manor's hypervisor leaf"),
                ("xen", "settings of Xen", "it is not Xen"),
                ("privnet", "network of containers", "it is no container"),
                ("hap", "nested paging", "it is used where there is any"),
                ("viridian", "Hyper-V under Xen", "it is not Xen"),
                ("pvspinlock", "spin locks", "the guest spins"),
                ("pmu", "performance counters", "the guest has none"),
                ("vmport", "VMware's port", "there is none"),
                ("smm", "system management mode", "there is none"),
                ("ioapic", "who makes the I/O APIC", "the machine does"),
                ("gic", "interrupts of ARM", "it is not ARM"),
                ("vmcoreinfo", "address of the crash kernel", "there is none"),
                ("msrs", "unknown MSRs", "they fault"),
                ("tcg", "settings of a translator", "the translator has its own"),
                ("async-teardown", "end of the process", "memory is freed at once"),
                ("capabilities", "capabilities of containers", "it is no container"),
                ("ps2", "PS/2 controller", "there is none"),
            )
        ),
        note("clock/@basis", "start of the clock", ignored("the clock chip counts UTC")),
        note("clock/@adjustment", "difference of the clock", ignored("the clock chip counts UTC")),
        note("clock/@timezone", "zone of the clock", ignored("the clock chip counts UTC")),
        note("clock/@start", "start of the clock", ignored("the clock chip counts UTC")),
        note("keywrap", "keys of s390", ignored("it is not s390")),
        note("launchSecurity", "encrypted memory", refused("memory is not encrypted", "remove <launchSecurity>")),
        note("qemu:commandline", "arguments of QEMU", refused("it is not QEMU", "remove <qemu:commandline>")),
        note("qemu:override", "properties of QEMU's devices", refused("it is not QEMU", "remove <qemu:override>")),
        note("qemu:deprecation", "behaviour of QEMU", ignored("it is not QEMU")),
        note("qemu:capabilities", "features of QEMU", ignored("it is not QEMU")),
    )


def parse(text: str) -> Domain:
    """The domain that `text` describes, as it says. Raises ConfigError with the path of what is wrong."""
    return reader.read_element(Domain, tree.read(text, ROOT), ROOT)


def format(domain: Domain) -> str:
    """XML in libvirt's manner."""
    return tree.write(writer.write_element(domain, ROOT))


def check(domain: Domain) -> list[Finding]:
    """What will not be as the document asks, refused things first. Empty: all will."""
    found = [*checker.findings(domain, ROOT), *domain_rules(domain)]
    refused_paths = {one.path for one in found if one.verdict is Support.REFUSED}
    kept = [one for one in found if one.verdict is Support.REFUSED or one.path not in refused_paths]
    return sorted(kept, key=lambda finding: finding.verdict is not Support.REFUSED)
