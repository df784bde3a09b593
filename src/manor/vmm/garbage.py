"""Python's search for cyclic garbage, in a process that runs one VM.

What a VM is made of lives as long as the VM: to look through it again and again finds nothing. And every frame and
request makes objects that die at once, by their counts; the search finds only connections that ended.
"""

from __future__ import annotations

import gc
from typing import Final

_THRESHOLD: Final = 20_000
"""Objects made and not yet gone before the young are searched; the default is 700."""


def settle() -> None:
    """Leave alone what there is by now, and search rarely. For the program that owns the process, after `Vm.start`."""
    gc.freeze()
    gc.set_threshold(_THRESHOLD, 10, 10)
