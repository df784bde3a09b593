"""Programs of this machine for guests: a dynamically linked program with its libraries, and Python with its modules."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Final

Files = dict[str, tuple[int, bytes]]
"""Absolute path in the guest -> (permissions, contents)."""

_LIBRARY: Final = re.compile(r"(?:=> )?(/\S+) \(0x")
_PYTHON: Final = "/usr/bin/python3"
_LIST_MODULES: Final = """
import runpy, sys
sys.argv = ["x", "--help"]
try:
    runpy.run_path({path!r}, run_name="__main__")
except SystemExit:
    pass
import encodings.utf_8, encodings.ascii, encodings.idna
sys.stdout.write("\\n@@\\n")
for module in list(sys.modules.values()):
    file = getattr(module, "__file__", None)
    if file:
        print(file)
"""


def with_libraries(program: str) -> Files:
    """A program of this machine and the shared libraries that it is linked with, where they are here."""
    files: Files = {program: (0o755, Path(program).read_bytes())}
    done = subprocess.run(["ldd", program], capture_output=True, encoding="utf-8", check=True, timeout=30)
    for path in _LIBRARY.findall(done.stdout):
        files[path] = (0o755, Path(path).read_bytes())
    return files


def has_system_python() -> bool:
    """Whether the distribution's Python is here: one whose parts lie where they would in a guest."""
    return os.path.exists(_PYTHON) and shutil.which("ldd") is not None


def python_for(script: Path) -> Files:
    """The distribution's Python with the modules that `script` imports, and the script itself as /usr/bin/<name>."""
    files = with_libraries(os.path.realpath(_PYTHON))
    files[_PYTHON] = files[os.path.realpath(_PYTHON)]
    done = subprocess.run(
        [_PYTHON, "-I", "-c", _LIST_MODULES.format(path=os.fspath(script))],
        capture_output=True, encoding="utf-8", check=True, timeout=60,
    )  # fmt: skip
    for path in done.stdout.rpartition("@@\n")[2].split():
        if path.startswith("/usr/lib/"):
            files[path] = (0o644, Path(path).read_bytes())
            if path.endswith(".so"):
                files |= with_libraries(path)
    return files | {f"/usr/bin/{script.name}": (0o755, script.read_bytes())}
