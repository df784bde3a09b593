"""Build steps that setuptools does not know: generate the engine's stencils, compile its hot modules.

Everything else about the package is in pyproject.toml.
"""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
SOURCE = ROOT / "src"
GENERATOR = "manor.engine.build"
NATIVE = "MANOR_NATIVE"
"""Set to `skip` in the environment, it leaves the native parts out: the Makefile builds them in a step of its own."""


def has_generator() -> bool:
    """Whether the source tree carries the engine (a documentation-only checkout may not)."""
    return SOURCE.joinpath(*GENERATOR.split(".")).with_suffix(".py").exists()


def extensions() -> list[Extension]:
    """One extension for each native module of the engine, which lists them with their sources and compiler options."""
    if not has_generator() or os.environ.get(NATIVE) == "skip":
        return []
    sys.path.insert(0, str(SOURCE))
    try:
        build = import_module(GENERATOR)
    finally:
        sys.path.remove(str(SOURCE))
    return [
        Extension(
            name,
            [str(build.native_source(name, SOURCE).relative_to(ROOT))],
            extra_compile_args=list(build.COMPILE_ARGS),
        )
        for name in build.NATIVE_MODULES
    ]


def generate() -> None:
    """Write the generated sources and tables beside the engine's sources.

    In a process of its own: LLVM ends the process on an internal error, and this way the message stays readable.
    """
    if not has_generator():
        return
    environment = dict(os.environ)
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(SOURCE), environment.get("PYTHONPATH")]))
    subprocess.run(
        [sys.executable, "-m", GENERATOR, "--out", str(SOURCE / "manor" / "engine")],
        check=True,
        cwd=ROOT,
        env=environment,
    )


class GenerateThenBuildPy(build_py):
    """Generate first, so that the generated files are found as modules and package data."""

    def run(self) -> None:
        if not self.editable_mode:
            generate()
        super().run()


class GenerateThenBuildExt(build_ext):
    """Generate, turn the native modules into C, compile."""

    def run(self) -> None:
        from Cython.Build import cythonize

        generate()
        processors = os.cpu_count() or 1
        self.parallel = self.parallel or processors
        made = cythonize(
            self.extensions, include_path=[str(SOURCE)], build_dir="build/cython", nthreads=processors, quiet=True
        )
        # The extensions themselves stay: setuptools has already prepared them.
        sources = {extension.name: extension.sources for extension in made}
        for extension in self.extensions:
            extension.sources = sources[extension.name]
        super().run()


setup(ext_modules=extensions(), cmdclass={"build_py": GenerateThenBuildPy, "build_ext": GenerateThenBuildExt})
