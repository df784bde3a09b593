"""`python -m benchmarks.kvm_exits`: what an exit costs in Python, against a loop in C that does nothing else.

The question: does the vCPU's loop need native code? The goal is 130,000 port exits a second where the C loop does
190,000. Both run in turns, several times, for the machine may be noisy; the medians are compared. Not a test: no
assertion.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from manor.accel.kvm.accel import KvmAccel
from manor.accel.kvm.probe import probe
from manor.accel.kvm.vcpu import KvmVcpu
from manor.base.address import Gpa
from manor.mem.guest_memory import GuestMemory, Region
from manor.spec.cpu_state import CpuState, Segment

CODE = 0x1000
PROGRAM = b"\xe6\x80\xeb\xfc"  # out 0x80, al; jmp to it
SOURCE = Path(__file__).with_suffix(".c")


class Counter:
    """An ExitHandler that stops the guest after `seconds`, looking at the clock now and then."""

    def __init__(self, seconds: float) -> None:
        self.count = 0
        self.vcpu: KvmVcpu | None = None
        self._end = time.perf_counter() + seconds

    def pio_read(self, port: int, size: int) -> int:
        return 0

    def pio_write(self, port: int, size: int, value: int) -> None:
        self.count += 1
        if self.count % 1000 == 0 and time.perf_counter() > self._end and self.vcpu is not None:
            self.vcpu.kick()

    def mmio_read(self, vcpu_index: int, gpa: int, size: int) -> int:
        return 0

    def mmio_write(self, vcpu_index: int, gpa: int, size: int, value: int) -> None:
        pass


def run_python(seconds: float) -> float:
    """Exits a second through KvmVcpu.run."""
    memory = GuestMemory([Region(Gpa(0), 0x1_0000)])
    memory.load(CODE, PROGRAM)
    counter = Counter(seconds)
    vm = KvmAccel().create_vm(memory, counter, 1)
    vcpu = vm.vcpus[0]
    vcpu.set_state(CpuState(rip=CODE, cs=Segment(0, 0, 0xFFFF, 0x9B)))
    counter.vcpu = vcpu
    started = time.perf_counter()
    vcpu.run()
    elapsed = time.perf_counter() - started
    vm.close()
    return counter.count / elapsed


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kvm_exits", description=__doc__)
    parser.add_argument("--seconds", type=float, default=1.0, help="for each run (default 1)")
    parser.add_argument("--repetitions", type=int, default=5, help="runs of each (default 5)")
    options = parser.parse_args()
    verdict = probe()
    print(f"kvm is {verdict}")
    if not verdict.can_run:
        return
    ours: list[float] = []
    bare: list[float] = []
    with tempfile.TemporaryDirectory() as directory:
        program = Path(directory) / "kvm_exits"
        subprocess.run(["gcc", "-O2", "-o", str(program), str(SOURCE)], check=True)
        for _ in range(options.repetitions):
            command = [str(program), str(options.seconds)]
            bare.append(float(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
            ours.append(run_python(options.seconds))
    middle, floor = statistics.median(ours), statistics.median(bare)
    print(f"C loop          {floor:10,.0f} exits/s   ({min(bare):,.0f} to {max(bare):,.0f})")
    print(f"Manor           {middle:10,.0f} exits/s   ({min(ours):,.0f} to {max(ours):,.0f})")
    print(f"Python's share  {1e6 / middle - 1e6 / floor:10.2f} us an exit; ratio {middle / floor:.2f}")


if __name__ == "__main__":
    main()
