"""`python -m benchmarks.block`: what a qcow2 image costs over a raw one, in the same run, on the same files.

Question: how much slower are reads and writes of allocated clusters when the mapping lies in between? Each round times
every image once, in changing order; the table has the median of the rounds and the ratio to raw. The images are in the
host's page cache, so that no medium hides the difference; `--direct` goes around it, as a guest's disk may.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from manor.backends.block.api import BlockBackend
from manor.backends.block.open import OpenOptions, open_image
from manor.backends.block.operations import create

MiB = 1 << 20
KINDS: dict[str, dict[str, str]] = {"raw": {}, "qcow2": {}, "extended": {"extended_l2": "on", "cluster_size": "128K"}}
ROWS: list[tuple[str, int, str]] = [
    ("4 KiB random read", 4096, "read"),
    ("4 KiB random read_nowait", 4096, "read_nowait"),
    ("4 KiB random write", 4096, "write"),
    ("64 KiB random read", 65536, "read"),
    ("64 KiB random write", 65536, "write"),
    ("1 MiB read", MiB, "read"),
    ("1 MiB write", MiB, "write"),
]


def once(image: BlockBackend, block: int, method: str, size: int, seconds: float) -> float:
    """Seconds for one call, on average."""
    rng = random.Random(1)
    offsets = [rng.randrange(size // block) * block for _ in range(1000)]
    buffers = [memoryview(bytearray(block))]
    call: Callable[[int, list[memoryview]], object] = getattr(image, method)
    count = 0
    start = time.perf_counter()
    while time.perf_counter() - start < seconds:
        for offset in offsets[: max(4, min(1000, 4 * MiB // block))]:
            call(offset, buffers)
            count += 1
    return (time.perf_counter() - start) / count


def first_writes(image: BlockBackend, size: int) -> float:
    """MB/s of writing everything for the first time, and flushing it."""
    data = [memoryview(os.urandom(MiB))]
    start = time.perf_counter()
    for offset in range(0, size, MiB):
        image.write(offset, data)
    image.flush()
    return size / 1e6 / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.block", description=__doc__)
    parser.add_argument("--size", type=int, default=256, metavar="MIB", help="of each image (default 256)")
    parser.add_argument("--rounds", type=int, default=7, metavar="N", help="of each row (default 7)")
    parser.add_argument("--seconds", type=float, default=0.3, metavar="S", help="for each measurement (default 0.3)")
    parser.add_argument("--direct", action="store_true", help="around the page cache")
    options = parser.parse_args()
    size = options.size * MiB
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        images: dict[str, BlockBackend] = {}
        for kind, details in KINDS.items():
            format = "raw" if kind == "raw" else "qcow2"
            path = str(Path(folder) / kind)
            create(path, size, format=format, options=details)
            how = OpenOptions(format=format, cache="direct" if options.direct else "writeback")
            images[kind] = open_image(path, how)
            print(f"first writes, {kind}: {first_writes(images[kind], size):.0f} MB/s")
        print(f"{'':28}" + "".join(f"{kind + ' us':>14}{'ratio':>8}" for kind in KINDS))
        for title, block, method in ROWS:
            if options.direct and method == "read_nowait":
                continue
            times: dict[str, list[float]] = {kind: [] for kind in KINDS}
            for turn in range(options.rounds):
                order = list(KINDS)[turn % len(KINDS) :] + list(KINDS)[: turn % len(KINDS)]
                for kind in order:
                    times[kind].append(once(images[kind], block, method, size, options.seconds))
            medians = {kind: statistics.median(times[kind]) for kind in KINDS}
            cells = (f"{medians[kind] * 1e6:14.2f}{medians[kind] / medians['raw']:8.2f}" for kind in KINDS)
            print(f"{title:28}" + "".join(cells))
        for image in images.values():
            image.close()


if __name__ == "__main__":
    main()
