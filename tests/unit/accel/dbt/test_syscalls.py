"""Names and arguments of Linux system calls."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from manor.accel.dbt.syscalls import SYSCALLS, describe

FDCWD = (1 << 64) - 100


@pytest.mark.parametrize(
    ("number", "arguments", "text"),
    [
        (1, (1, 0x7FFE12, 12), "write(1, 0x7ffe12, 12)"),
        (39, (1, 2, 3, 4, 5, 6), "getpid()"),
        (3, (0xFFFFFFFF,), "close(-1)"),
        (8, (3, (1 << 64) - 8, 1), "lseek(3, -8, 1)"),
        (9, (0, 4096, 3, 0x22, 0xFFFFFFFFFFFFFFFF, 0),
         "mmap(NULL, 4096, PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0x0)"),
        (10, (0x1000, 4096, 0), "mprotect(0x1000, 4096, PROT_NONE)"),
        (62, (0xFFFFFFFF, 9), "kill(-1, SIGKILL)"),
        (62, (1, 0), "kill(1, 0)"),
        (62, (1, 34), "kill(1, 34)"),
        (83, (0x1000, 0o755), "mkdir(0x1000, 0o755)"),
        (2, (0x1000, 0, 0o644), "open(0x1000, O_RDONLY)"),
        (2, (0x1000, 0o101, 0o644), "open(0x1000, O_WRONLY|O_CREAT, 0o644)"),
        (2, (0x1000, 0o20200002, 0o600), "open(0x1000, O_RDWR|O_TMPFILE, 0o600)"),
        (2, (0x1000, 0o4010001, 0), "open(0x1000, O_WRONLY|O_SYNC)"),
        (2, (0x1000, 0x80000000, 0), "open(0x1000, O_RDONLY|0x80000000)"),
        (462, (0x1000, 4096, 0), "mseal(0x1000, 4096, 0x0)"),
        (999, (1, 2), "syscall_999(0x1, 0x2)"),
        (400, (), "syscall_400()"),
        (-1, (0,) * 6, "syscall_-1(0x0, 0x0, 0x0, 0x0, 0x0, 0x0)"),
    ],
)  # fmt: skip
def test_calls_read_like_source(number: int, arguments: tuple[int, ...], text: str) -> None:
    assert describe(number, arguments) == text


def test_paths_are_shown_when_memory_can_be_read() -> None:
    memory = {0x5000: "/etc/passwd"}
    call = (FDCWD, 0x5000, 0, 0)
    assert describe(257, call, memory.get) == 'openat(AT_FDCWD, "/etc/passwd", O_RDONLY)'
    assert describe(257, (FDCWD, 0x6000, 0o2000000, 0), memory.get) == "openat(AT_FDCWD, 0x6000, O_RDONLY|O_CLOEXEC)"
    assert describe(257, call) == "openat(AT_FDCWD, 0x5000, O_RDONLY)"


def test_a_null_path_is_not_read() -> None:
    def fail(address: int) -> str:
        raise AssertionError(address)

    assert describe(4, (0, 0x10), fail) == "stat(NULL, 0x10)"


def test_bytes_that_a_terminal_would_obey_are_escaped() -> None:
    assert describe(80, (0x1000,), lambda _: '\x1b[2J"\n') == 'chdir("\\u001b[2J\\"\\n")'


def test_the_table_is_whole() -> None:
    assert sorted(SYSCALLS) == [*range(335), *range(424, 463)]
    assert len({call.name for call in SYSCALLS.values()}) == len(SYSCALLS)
    assert all(re.fullmatch(r"[dluxopsfaSOPM]{0,6}", call.kinds) for call in SYSCALLS.values())


def test_numbers_agree_with_the_c_library() -> None:
    header = Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h")
    if not header.exists():
        pytest.skip("the C library's headers are not installed")
    theirs = {int(number): name for name, number in re.findall(r"#define __NR_(\w+) (\d+)", header.read_text())}
    ours = {number: call.name for number, call in SYSCALLS.items()}
    assert {number: ours.get(number) for number in theirs if number in ours} == {
        number: name for number, name in theirs.items() if number in ours
    }
