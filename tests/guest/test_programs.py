"""Compiled C programs print the same in the guest as on the host. One boot runs them all."""

from __future__ import annotations

import os
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import pytest

from manor.guests.default import DefaultGuest
from manor.guests.init_script import PROMPT
from manor.testing.guest_process import GuestProcess, NotSeen
from manor.testing.programs import PLAIN_CPU, compile_program, extend_initrd, has_compiler
from tests.guest.conftest import BOOT_TIMEOUT_S, StartGuest

SOURCES: Final = sorted((Path(__file__).parent / "programs").glob("*.c"))
PROGRAM_TIMEOUT_S: Final = 60
TOTAL_TIMEOUT_S: Final = 240.0

SCRIPT: Final = f"""\
# Nothing of the kernel's own between the lines of the programs.
dmesg -n 1
for program in "$@"; do
    echo "@@begin $program"
    timeout {PROGRAM_TIMEOUT_S} /test/$program </dev/null
    echo "@@end $program $?"
done
echo "@@done"
"""

MULTIPROCESSOR: Final = ("clocks", "memory", "processes", "selfmodify", "signals", "threads")
"""Programs for which the number of CPUs makes a difference."""


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    if not has_compiler():
        pytest.skip("there is no gcc on this machine")
    directory = tmp_path_factory.mktemp("programs")
    with ThreadPoolExecutor(2) as pool:
        paths = pool.map(lambda source: compile_program(source, directory), SOURCES)
    return {path.name: path for path in paths}


@pytest.fixture(scope="module")
def on_host(compiled: dict[str, Path]) -> dict[str, tuple[int, str]]:
    """Exit status and output of each program here."""
    results = {}
    for name, path in compiled.items():
        done = subprocess.run(
            [path], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, timeout=PROGRAM_TIMEOUT_S, check=False,
            env={**os.environ, **PLAIN_CPU}, encoding="utf-8",
        )  # fmt: skip
        results[name] = done.returncode, done.stdout
    return results


def run_in_guest(process: GuestProcess, names: list[str]) -> dict[str, tuple[int, str]]:
    """Exit status and output of each of `names`; those that were not reached are missing."""
    process.wait_for(PROMPT, BOOT_TIMEOUT_S)
    process.send(f"sh /test/run {' '.join(names)}\n")
    try:
        process.wait_for("@@done", TOTAL_TIMEOUT_S)
    except NotSeen as error:
        # What the guest did until then is compared all the same: it says more than that something is missing.
        print(f"not all programs ran: {error}")
    sections = re.finditer(r"@@begin (\w+)\n(.*?)@@end \1 (\d+)\n", process.text, re.DOTALL)
    return {section[1]: (int(section[3]), section[2]) for section in sections}


def differences(expected: dict[str, tuple[int, str]], seen: dict[str, tuple[int, str]]) -> list[str]:
    """One paragraph for each program that differs: its first differing lines."""
    found = []
    for name, (status, output) in expected.items():
        if name not in seen:
            found.append(f"{name}: did not run to its end")
            continue
        if seen[name] == (status, output):
            continue
        lines = [f"{name}: exit status {seen[name][0]}, on the host {status}"]
        host, guest = output.splitlines(), seen[name][1].splitlines()
        pairs = [(i, a, b) for i, (a, b) in enumerate(zip(host, guest, strict=False)) if a != b]
        lines += [f"  line {i + 1}: host  {a}\n{'':9}guest {b}" for i, a, b in pairs[:6]]
        if len(host) != len(guest):
            lines.append(f"  {len(host)} lines on the host, {len(guest)} in the guest, which ends with {guest[-1:]}")
        found.append("\n".join(lines))
    return found


def check(
    names: list[str],
    compiled: dict[str, Path],
    on_host: dict[str, tuple[int, str]],
    guest: DefaultGuest,
    start_guest: StartGuest,
    directory: Path,
) -> None:
    files = {f"/test/{name}": (0o755, compiled[name].read_bytes()) for name in names}
    files["/test/run"] = (0o755, SCRIPT.encode())
    initrd = extend_initrd(guest.initrd, files, directory / "initrd.cpio")
    seen = run_in_guest(start_guest(initrd=initrd), names)
    found = differences({name: on_host[name] for name in names}, seen)
    assert not found, "\n" + "\n".join(found)


@pytest.mark.timeout(420)
def test_programs_print_the_same_as_on_the_host(
    compiled: dict[str, Path],
    on_host: dict[str, tuple[int, str]],
    guest: DefaultGuest,
    start_guest: StartGuest,
    tmp_path: Path,
) -> None:
    check(sorted(compiled), compiled, on_host, guest, start_guest, tmp_path)


@pytest.mark.timeout(420)
@pytest.mark.parametrize("cpus", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_programs_print_the_same_on_several_cpus(
    compiled: dict[str, Path],
    on_host: dict[str, tuple[int, str]],
    guest: DefaultGuest,
    start_guest: StartGuest,
    tmp_path: Path,
) -> None:
    check(list(MULTIPROCESSOR), compiled, on_host, guest, start_guest, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(420)
@pytest.mark.parametrize("kernel", ["generic"])
@pytest.mark.parametrize("cpus", [1, 4])
def test_programs_print_the_same_on_the_ordinary_kernel(
    compiled: dict[str, Path],
    on_host: dict[str, tuple[int, str]],
    guest: DefaultGuest,
    start_guest: StartGuest,
    tmp_path: Path,
) -> None:
    check(sorted(compiled), compiled, on_host, guest, start_guest, tmp_path)


def test_programs_end_well_on_the_host(on_host: dict[str, tuple[int, str]]) -> None:
    """A program that fails here says nothing about the guest."""
    assert {name: status for name, (status, _) in on_host.items() if status != 0} == {}
    assert [name for name, (_, output) in on_host.items() if not output] == []
