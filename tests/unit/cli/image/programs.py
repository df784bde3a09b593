"""Running qemu-img, and what `manor image` is compared with."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

needs_qemu = pytest.mark.skipif(shutil.which("qemu-img") is None, reason="needs qemu-img and qemu-io")


class Ended:
    """What a command printed and its exit status."""

    def __init__(self, status: int, out: str, err: str) -> None:
        self.status, self.out, self.err = status, out, err

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Ended]


def qemu(*words: object) -> Ended:
    done = subprocess.run(["qemu-img", *map(str, words)], check=False, capture_output=True, text=True, timeout=60)
    return Ended(done.returncode, done.stdout, done.stderr)


def write(image: str, *commands: str) -> None:
    words = [word for command in commands for word in ("-c", command)]
    subprocess.run(["qemu-io", *words, image], check=True, capture_output=True, timeout=60)
