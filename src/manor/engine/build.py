"""Generate what the engine is compiled from: run by the package's build, and by hand with --inplace.

    python -m manor.engine.build --out src/manor/engine     generate only
    python -m manor.engine.build --inplace                  generate, compile beside the sources

Generated: `env.pxd` from the layout, the interpreter from the uop table, the instruction tables
from the declarations, the stencils from the uop table by LLVM. Nothing is generated or compiled
when a guest runs.
"""

from __future__ import annotations

import argparse
import importlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Final

NATIVE_MODULES: Final = (
    "manor.mem.scatter_native",
    "manor.mem.ring_native",
    "manor.engine.callback_native",
    "manor.engine.cache_native",
    "manor.engine.walk_native",
    "manor.engine.softmmu_native",
    "manor.engine.isa.x86.flags_native",
    "manor.engine.isa.x86.descriptor_native",
    "manor.engine.isa.x86.paging_native",
    "manor.engine.isa.x86.task_native",
    "manor.engine.isa.x86.exception_native",
    "manor.engine.isa.x86.debug_native",
    "manor.engine.isa.x86.segment_native",
    "manor.engine.isa.x86.transfer_native",
    "manor.engine.isa.x86.syscall_native",
    "manor.engine.isa.x86.control_native",
    "manor.engine.isa.x86.cpuid_native",
    "manor.engine.isa.x86.msr_native",
    "manor.engine.isa.x86.io_native",
    "manor.engine.isa.x86.system_native",
    "manor.engine.isa.x86.fpu_native",
    "manor.engine.isa.x86.sse_native",
    "manor.engine.isa.x86.x87_native",
    "manor.engine.bench_native",
    "manor.engine.isa.x86.integer_native",
    "manor.engine.isa.x86.stack_native",
    "manor.engine.isa.x86.string_native",
    "manor.engine.isa.x86.decimal_native",
    "manor.engine.isa.x86.table_native",
    "manor.engine.isa.x86.uop_native",
    "manor.engine.isa.x86.decode_native",
    "manor.engine.isa.x86.address_native",
    "manor.engine.isa.x86.condition_native",
    "manor.engine.isa.x86.expand_native",
    "manor.engine.isa.x86.translate_native",
    "manor.engine.lower.passes_native",
    "manor.engine.lower.slow_native",
    "manor.engine.lower.copy_native",
    "manor.engine.lower.arena_native",
    "manor.engine.lower.slots_native",
    "manor.engine.lower.emit_memory_native",
    "manor.engine.lower.emit_exit_native",
    "manor.engine.lower.emit_uop_native",
    "manor.engine.lower.loop_native",
    "manor.engine.lower.emit_native",
    "manor.engine.lower.sandbox_native",
    "manor.engine.interp_native",
    "manor.engine.inspect_native",
    "manor.engine.cpu_native",
)
"""Compiled by Cython, in the order of their C-level dependencies. Those of `mem` are guest memory's, and built with
them."""

COMPILE_ARGS: Final = ("-O2", "-fwrapv", "-fno-strict-aliasing", "-g0", "-ffp-contract=off", "-msse4.2", "-mcx16")
"""-fno-strict-aliasing: guest memory is read at every width. -ffp-contract=off: no fused multiply-add."""


def native_source(name: str, root: Path) -> Path:
    """Source file of a native module below the package root (the folder that holds `manor`)."""
    path = root.joinpath(*name.split("."))
    return path.with_suffix(".pyx") if name.endswith("interp_native") else path.with_suffix(".py")


def write_if_changed(path: Path, data: bytes) -> bool:
    """Write only what differs, so that nothing is compiled again for nothing."""
    if path.exists() and path.read_bytes() == data:
        return False
    path.write_bytes(data)
    return True


def generate(out: Path) -> None:
    """Write all generated files below `out`, the engine's source folder."""
    env = importlib.import_module("manor.engine.env")
    write_if_changed(out / "env.pxd", env.render_pxd().encode())
    interp_vector = importlib.import_module("manor.engine.uop.interp_vector")
    write_if_changed(out / "vector_interp.pxd", interp_vector.render_pxd().encode())
    x87_host = importlib.import_module("manor.engine.isa.x86.x87_host")
    write_if_changed(out / "isa" / "x86" / "x87_host.pxd", x87_host.render_pxd().encode())
    emit_interp = importlib.import_module("manor.engine.uop.emit_interp")
    write_if_changed(out / "interp_native.pyx", emit_interp.render().encode())
    write_if_changed(out / "interp_native.pxd", emit_interp.render_pxd().encode())
    tables = importlib.import_module("manor.engine.isa.x86.tables")
    write_if_changed(out / "isa" / "x86" / "tables.bin", tables.serialize())
    blob = importlib.import_module("manor.engine.lower.blob")
    write_if_changed(out / "lower" / "ops.bin", blob.pack_ops())
    if not blob.is_current(out / "lower" / "stencils.bin"):
        # LLVM ends its process on an internal error; in one of its own the message stays readable.
        target = str(out / "lower" / "stencils.bin")
        code = f"from manor.engine.lower.blob import build_stencils; build_stencils({target!r})"
        path = {"PYTHONPATH": os.pathsep.join(sys.path)}
        subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | path)


def compile_inplace(root: Path, names: list[str]) -> None:
    """Compile native modules beside their sources; what is newer than its sources is left alone."""
    from Cython.Build import cythonize
    from setuptools import Extension
    from setuptools.dist import Distribution

    extensions = [
        Extension(name, [str(native_source(name, root))], extra_compile_args=list(COMPILE_ARGS)) for name in names
    ]
    modules = cythonize(extensions, build_dir=str(root.parent / "build" / "cython"), quiet=True, nthreads=2)
    distribution = Distribution({"name": "manor-native", "ext_modules": modules, "package_dir": {"": str(root)}})
    command = distribution.get_command_obj("build_ext")
    command.inplace = True
    command.parallel = 2
    command.build_temp = str(root.parent / "build" / "temp")
    command.ensure_finalized()
    command.run()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="folder to generate into (default: this one)")
    parser.add_argument("--inplace", action="store_true", help="compile the native modules too")
    parser.add_argument("--only", nargs="*", help="compile only these modules")
    arguments = parser.parse_args()
    here = Path(__file__).resolve().parent
    generate(arguments.out or here)
    if arguments.inplace:
        # In a process of its own: a module that is being replaced must not be loaded.
        names = arguments.only or list(NATIVE_MODULES)
        code = (
            "from pathlib import Path; from manor.engine.build import compile_inplace; "
            f"compile_inplace(Path({str(here.parent.parent)!r}), {names!r})"
        )
        return subprocess.run([sys.executable, "-c", code], check=False).returncode
    return 0


if __name__ == "__main__":
    sys.exit(main())
