"""The hand-kept .pyi files of native modules say what the built modules have, no less and no more."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

import manor

PACKAGE = Path(manor.__file__).parent
STUBS = sorted(PACKAGE.rglob("*_native.pyi"))


def module_of(stub: Path) -> str:
    return ".".join(("manor", *stub.relative_to(PACKAGE).with_suffix("").parts))


def public(names: object) -> set[str]:
    return {name for name in vars(names) if not name.startswith("_")}


@pytest.mark.parametrize("stub", STUBS, ids=lambda stub: stub.stem)
def test_stub_names_what_the_module_has(stub: Path) -> None:
    module = importlib.import_module(module_of(stub))
    for node in ast.parse(stub.read_text("utf-8")).body:
        if isinstance(node, ast.FunctionDef):
            assert callable(getattr(module, node.name))
        elif isinstance(node, ast.ClassDef):
            cls = getattr(module, node.name)
            declared = {
                part.name for part in node.body if isinstance(part, ast.FunctionDef) and not part.name.startswith("__")
            }
            fields = {part.target.id for part in node.body if isinstance(part, ast.AnnAssign)
                      if isinstance(part.target, ast.Name)}  # fmt: skip
            assert public(cls) == declared | fields


@pytest.mark.parametrize("stub", STUBS, ids=lambda stub: stub.stem)
def test_signatures_have_the_names_of_the_source(stub: Path) -> None:
    """Defaults and types differ in how they are written; names and order of parameters must not."""
    source = stub.with_suffix(".py")
    if not source.exists():  # generated modules are .pyx
        return

    def signatures(path: Path) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for node in ast.parse(path.read_text("utf-8")).body:
            parts = node.body if isinstance(node, ast.ClassDef) else [node]
            prefix = f"{node.name}." if isinstance(node, ast.ClassDef) else ""
            for part in parts:
                if isinstance(part, ast.FunctionDef):
                    name = "__init__" if part.name == "__cinit__" else part.name
                    found[prefix + name] = [argument.arg for argument in part.args.args]
        return found

    real = signatures(source)
    # Read-only fields are properties in the stub and declared in the .pxd file.
    for name, parameters in signatures(stub).items():
        assert real.get(name, ["self"]) == parameters, name
