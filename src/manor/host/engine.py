"""The engine's native parts, and the accelerator that guests get."""

from __future__ import annotations

from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Final

import manor
from manor.accel.choose import choose
from manor.accel.kvm.probe import Verdict
from manor.base.errors import ManorError
from manor.engine.build import NATIVE_MODULES
from manor.host.finding import Fact, Finding
from manor.host.host import Host
from manor.host.processor import ENGINE_LEVEL, flags, level

SOURCE: Final = Path(manor.__file__).resolve().parents[1]
"""The folder with the package `manor`."""
TABLES: Final = ("isa/x86/tables.bin", "lower/ops.bin", "lower/stencils.bin")
"""What the engine reads when it starts, below its own folder."""
BUILD: Final = "Build the native parts: make setup, or pip install . in the source tree."


def check_engine(source: Path = SOURCE) -> Finding:
    """Looks only whether the files are there: to load them takes longer than all other checks."""
    paths = {name: source.joinpath(*name.split(".")) for name in NATIVE_MODULES}
    absent = [name for name, path in paths.items() if not _is_built(path)]
    tables = [name for name in TABLES if not source.joinpath("manor", "engine", name).exists()]
    facts: dict[str, Fact] = {"modules": len(paths), "absent": [*absent, *tables]}
    if not absent and not tables:
        text = f"all {len(paths)} native modules and {len(TABLES)} tables are built"
        return Finding("engine", "ok", text, facts=facts)
    if any(list(paths[name].parent.glob(f"{paths[name].name}.*.so")) for name in absent):
        text = "native parts of the engine are built for another Python than this one"
    elif len(absent) == len(paths):
        text = "the engine's native parts are not built"
    else:
        first = [*absent, *tables][0]
        text = f"{len(absent) + len(tables)} of the engine's native parts are not built, for example {first}"
    return Finding("engine", "missing", text, BUILD, facts)


def check_accelerator(host: Host, verdict: Verdict, engine: Finding) -> Finding:
    """What `--accel auto` takes, by its own words; a problem where there is nothing to take.

    verdict: what the probe said. engine: what `check_engine` found.
    """
    if not verdict.is_usable:
        features = flags(host)
        if features and level(features) < ENGINE_LEVEL:
            text = f"nothing runs guests: kvm is {verdict.state.value}, and the engine needs x86-64-v{ENGINE_LEVEL}"
            return _nothing(text, f"Use a host with VT-x or AMD-V, or one of level x86-64-v{ENGINE_LEVEL}.")
        if engine.verdict != "ok":
            return _nothing(f"nothing runs guests: kvm is {verdict.state.value}, and {engine.text}", engine.fix)
    try:
        choice = choose("auto", verdict)
    except ManorError as error:
        return _nothing(f"nothing runs guests: {error}", BUILD)
    name, why = choice.accel.name, choice.why
    return Finding("accelerator", "ok", f"auto takes {name}: {why}", facts={"name": name, "why": why})


def _nothing(text: str, fix: str) -> Finding:
    return Finding("accelerator", "problem", text, fix, {"name": None, "why": None})


def _is_built(path: Path) -> bool:
    """Whether this Python finds a compiled module at `path`, which has no suffix."""
    return any(path.with_name(path.name + suffix).exists() for suffix in EXTENSION_SUFFIXES)
