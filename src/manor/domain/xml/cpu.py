"""<cpu>: the processor that the guest sees."""

# Declarations are tables, laid out by hand.
# fmt: off
from __future__ import annotations

from dataclasses import dataclass

from manor.domain.xml.property import Element, note, part, parts, prop
from manor.domain.xml.values import Choice, Integer, Text, ignored, refused

_WHOLE = ignored("models here are whole; the guest's CPUID says what there is", "write a model such as x86-64-v3")


@dataclass(frozen=True, slots=True, kw_only=True)
class Feature(Element):
    policy: str | None = prop("@policy", Choice("force", "require", "optional", "disable", "forbid"),
                              "how it is wanted")
    name: str = prop("@name", Text(64), "name of the feature", required=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Topology(Element):
    sockets: int = prop("@sockets", Integer(1, 4096), "sockets", required=True)
    dies: int | None = prop("@dies", Integer(1, 4096), "dies of a socket")
    clusters: int | None = prop("@clusters", Integer(1, 4096), "clusters of a die")
    cores: int = prop("@cores", Integer(1, 4096), "cores", required=True)
    threads: int = prop("@threads", Integer(1, 4096), "threads of a core", required=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cpu(Element):
    """The processor."""

    mode: str | None = prop("@mode", Choice("custom", "host-model", "host-passthrough", "maximum"),
                            "`host-passthrough` and `host-model`: the host's, under kvm; `maximum`: all there is")
    match: str | None = prop("@match", Choice("exact", "minimum", "strict"), "how the model is meant")
    check: str | None = prop("@check", Choice("none", "partial", "full"), "when features are compared",
                             verdict=ignored("features are those of the model"))
    migratable: str | None = prop("@migratable", Choice("on", "off"), "only features that can be moved",
                                  verdict=ignored("features are those of the model"))
    model: str | None = prop("model", Choice("x86-64-v2", "x86-64-v3", "max", "host", "qemu64", "kvm64",
                                             others=_WHOLE), "name of the model")
    fallback: str | None = prop("model/@fallback", Choice("allow", "forbid"), "whether a similar model will do")
    vendor: str | None = prop("vendor", Text(64), "vendor", verdict=ignored("the vendor is the model's"))
    topology: Topology | None = part("topology", Topology, "sockets, cores and threads",
                                     verdict=ignored("each vCPU is shown as a core of one socket"))
    features: tuple[Feature, ...] = parts("feature", Feature, "features one by one", verdict=_WHOLE)

    NOTES = (
        note("@deprecated_features", "old features", ignored("features are those of the model")),
        note("model/@vendor_id", "vendor's text", ignored("the vendor is the model's")),
        note("numa", "memory nodes", refused("the guest has one memory node", "remove <numa>")),
        note("cache", "caches in CPUID", ignored("the guest sees the model's")),
        note("maxphysaddr", "width of addresses", ignored("the guest sees the model's")),
    )
