"""Page walks, TLBs and the slow path, against the SDM's rules."""

from __future__ import annotations

import pytest

from manor.engine.env import MMU_SUPERVISOR, MMU_SUPERVISOR_NO_SMAP, MMU_USER
from manor.testing.cpu_bench import FAULT_HOST, FAULT_ONE_INSN, NX, PS, TABLES, A, CpuBench, D, G, P, U, W

S, M_USER, M_AC = MMU_SUPERVISOR, MMU_USER, MMU_SUPERVISOR_NO_SMAP
PT = TABLES + 0x5000
AREA = 0x40000000


@pytest.fixture
def cpu() -> CpuBench:
    """64-bit mode with a page table for AREA."""
    bench = CpuBench.make()
    bench.long_mode()
    bench.put(TABLES + 0x1008, TABLES + 0x4000 | P | W | U)
    bench.put(TABLES + 0x4000, PT | P | W | U)
    return bench


def test_identity_read_and_write_set_accessed_and_dirty(cpu: CpuBench) -> None:
    cpu.put(PT, 0x100000 | P | W | U)
    cpu.put(0x100010, 0x1122334455667788)
    assert cpu.load(AREA + 0x10, 8, S) == 0x1122334455667788
    assert cpu.take(PT) & (A | D) == A
    assert cpu.take(TABLES + 0x4000) & (A | D) == A
    cpu.store(AREA + 0x20, 0xAB, 1, S)
    assert cpu.take(PT) & (A | D) == A | D
    assert cpu.take(0x100020, 1) == 0xAB
    assert cpu.exception() is None


@pytest.mark.parametrize(
    ("entry", "mode", "write", "error"),
    [
        (0, S, False, 0),
        (0, M_USER, True, 6),
        (P | W, M_USER, False, 5),
        (P | U, M_USER, True, 7),
        (P, S, True, 3),
        (P | W | U | 1 << 50, S, False, 9),
        (P | W | U | 1 << 50, M_USER, True, 15),
    ],
)
def test_fault_codes(cpu: CpuBench, entry: int, mode: int, write: bool, error: int) -> None:
    cpu.put(PT, entry | 0x100000)
    if write:
        cpu.store(AREA + 5, 1, 1, mode)
    else:
        cpu.load(AREA + 5, 1, mode)
    assert cpu.exception() == (14, error)
    assert cpu.get("cr", 2) == AREA + 5
    assert cpu.take(PT) & (A | D) == 0


def test_write_protect_off_lets_the_supervisor_write(cpu: CpuBench) -> None:
    cpu.put(PT, 0x100000 | P)
    cpu.set("cr", 0x80000033, 0)
    cpu.store(AREA, 7, 1, S)
    assert cpu.exception() is None


def test_upper_levels_restrict(cpu: CpuBench) -> None:
    cpu.put(PT, 0x100000 | P | W | U)
    cpu.put(TABLES + 0x4000, PT | P | U)
    cpu.store(AREA, 7, 1, M_USER)
    assert cpu.exception() == (14, 7)
    cpu.put(TABLES + 0x4000, PT | P | W)
    cpu.flush(False)
    cpu.load(AREA, 1, M_USER)
    assert cpu.exception() == (14, 5)


def test_smap(cpu: CpuBench) -> None:
    cpu.set("cr", 0x2006A0, 4)
    cpu.put(PT, 0x100000 | P | W | U)
    cpu.load(AREA, 1, S)
    assert cpu.exception() == (14, 1)
    cpu.load(AREA, 1, M_AC)
    assert cpu.exception() is None


def test_smep_and_nx_fetch(cpu: CpuBench) -> None:
    cpu.put(PT, 0x100000 | P | W | U | NX)
    cpu.fetch(AREA)
    assert cpu.exception() == (14, 0x11)
    cpu.put(PT, 0x100000 | P | W | U)
    assert cpu.fetch(AREA + 0x123) == 0x100123
    cpu.set("cr", 0x1006A0, 4)
    cpu.flush(False)
    cpu.fetch(AREA)
    assert cpu.exception() == (14, 0x11)
    # without NXE the bit is reserved, and without SMEP the I/D flag is not reported
    cpu.put(PT, 0x100000 | P | W | U | NX)
    cpu.set("cr", 0x6A0, 4)
    cpu.set("efer", 0x501)
    cpu.fetch(AREA)
    assert cpu.exception() == (14, 9)


def test_large_pages(cpu: CpuBench) -> None:
    cpu.put(TABLES + 0x4000, PS | P | W | U)
    cpu.put(0x123456, 0x5A, 1)
    assert cpu.load(AREA + 0x123456, 1, S) == 0x5A
    cpu.put(TABLES + 0x1008, PS | P | W | U)
    cpu.flush(False)
    assert cpu.load(AREA + 0x123456, 1, S) == 0x5A
    cpu.put(TABLES + 0x1008, 0x2000 | PS | P | W | U)  # bit 13: reserved in a 1 GiB page
    cpu.flush(False)
    cpu.load(AREA, 1, S)
    assert cpu.exception() == (14, 9)


def test_invlpg_forgets_all_of_a_large_page(cpu: CpuBench) -> None:
    cpu.put(TABLES + 0x4000, PS | P | W | U)
    for page in range(0, 0x100000, 0x10000):
        cpu.load(AREA + page, 1, S)
    cpu.put(TABLES + 0x4000, 0)
    cpu.flush_page(AREA + 0x1FF000)
    for page in range(0, 0x100000, 0x10000):
        cpu.load(AREA + page, 1, S)
        assert cpu.exception() == (14, 0)


def test_invlpg_leaves_other_pages(cpu: CpuBench) -> None:
    cpu.put(PT, 0x100000 | P | W | U)
    cpu.put(PT + 8, 0x101000 | P | W | U)
    cpu.load(AREA, 1, S)
    cpu.load(AREA + 0x1000, 1, S)
    cpu.put(PT, 0)
    cpu.put(PT + 8, 0)
    cpu.flush_page(AREA + 0x800)
    cpu.load(AREA + 0x1000, 1, S)
    assert cpu.exception() is None
    cpu.load(AREA, 1, S)
    assert cpu.exception() == (14, 0)


@pytest.mark.parametrize("pages", [3, 1024])
def test_global_pages_survive_cr3_writes(cpu: CpuBench, pages: int) -> None:
    """Also when more pages were used than the list of entries to drop holds."""
    cpu.put(PT, 0x100000 | P | W | U | G)
    for page in range(1, 512):
        cpu.put(PT + 8 * page, 0x100000 | P | W | U)
    cpu.load(AREA, 1, S)
    for page in range(1, pages):
        cpu.load(AREA + 0x1000 * (page % 511 + 1), 1, S if page < 512 else M_USER)
    for page in range(512):
        cpu.put(PT + 8 * page, 0)
    cpu.do("write_cr", TABLES, 0, 3)
    cpu.load(AREA, 1, S)
    assert cpu.exception() is None
    cpu.load(AREA + 0x2000, 1, S)
    assert cpu.exception() == (14, 0)
    cpu.do("write_cr", 0x620, 0, 4)  # PGE off
    cpu.load(AREA, 1, S)
    assert cpu.exception() == (14, 0)


def test_crossing_store_writes_nothing_when_the_second_page_faults(cpu: CpuBench) -> None:
    cpu.put(PT, 0x100000 | P | W | U)
    cpu.put(PT + 8, 0x101000 | P | U)
    cpu.store(AREA + 0xFFE, 0x11223344, 4, S)
    assert cpu.exception() == (14, 3)
    assert cpu.get("cr", 2) == AREA + 0x1000
    assert cpu.take(0x100FFE, 2) == 0
    cpu.put(PT + 8, 0x180000 | P | W | U)
    cpu.store(AREA + 0xFFE, 0x11223344, 4, S)
    assert cpu.take(0x100FFE, 2) == 0x3344
    assert cpu.take(0x180000, 2) == 0x1122
    assert cpu.load(AREA + 0xFFD, 8, S) == 0x1122334400


def test_not_canonical(cpu: CpuBench) -> None:
    cpu.load(1 << 47, 1, S)
    assert cpu.exception() == (13, 0)
    cpu.load((1 << 47) - 4, 8, S)
    assert cpu.exception() == (13, 0)
    cpu.store(1 << 63, 0, 1, S | 4)
    assert cpu.exception() == (12, 0)
    cpu.fetch(1 << 47)
    assert cpu.exception() == (13, 0)


def test_device_pages(cpu: CpuBench) -> None:
    cpu.put(PT, 0xFEE00000 | P | W)
    cpu.callbacks.value = 0x12345678
    assert cpu.load(AREA + 0x20, 4, S) == 0x12345678
    cpu.store(AREA + 0x30, 0xFFFFFFFF55, 4, S)
    assert cpu.callbacks.log == [("mmio_read", 0xFEE00020, 4), ("mmio_write", 0xFEE00030, 4, 0xFFFFFFFF55)]
    assert not cpu.rmw(AREA, 4, S)
    assert cpu.exception() is None


def test_exception_of_a_callback_ends_the_run(cpu: CpuBench) -> None:
    cpu.put(PT, 0xFEE00000 | P | W)
    cpu.callbacks.fails = ValueError("device")
    cpu.load(AREA, 4, S)
    assert cpu.exception() == (-FAULT_HOST, 0)
    assert cpu.callbacks.error is cpu.callbacks.fails


def test_store_to_a_code_page_goes_through(cpu: CpuBench) -> None:
    cpu.put(PT, 0x100000 | P | W)
    cpu.store(AREA, 1, 8, S)
    cpu.make_code(0x100000)
    cpu.write(AREA, 2, 8)
    assert cpu.take(0x100000) == 2
    assert cpu.get("stats", 17) >= 1
    assert cpu.rmw(AREA, 8, S)


def test_locked_access_is_a_write(cpu: CpuBench) -> None:
    cpu.put(PT, 0x100000 | P)
    assert not cpu.rmw(AREA, 8, S)
    assert cpu.exception() == (14, 3)
    cpu.put(PT, 0x100000 | P | W)
    cpu.put(PT + 8, 0)
    assert not cpu.rmw(AREA + 0xFFC, 8, S)
    assert cpu.exception() == (14, 2)
    cpu.put(PT + 8, 0x101000 | P | W)
    assert not cpu.rmw(AREA + 0xFFC, 8, S)
    assert cpu.exception() is None


def test_alignment_check(cpu: CpuBench) -> None:
    cpu.put(PT, 0x100000 | P | W | U)
    cpu.set("cr", 0x80050033, 0)
    cpu.set_cpl(3)
    cpu.set_rflags(0x40002)
    cpu.update()
    cpu.load(AREA + 2, 4, M_USER)
    assert cpu.exception() == (17, 0)
    cpu.load(AREA + 4, 4, M_USER)
    assert cpu.exception() is None


def test_data_breakpoint_asks_for_a_single_instruction_first(cpu: CpuBench) -> None:
    cpu.put(PT, 0x100000 | P | W)
    cpu.do("write_dr", AREA + 8, 0, 0)
    cpu.do("write_dr", 0xD0001, 0, 7)  # write, 4 bytes, local 0
    cpu.load(AREA + 8, 8, S)
    assert cpu.exception() is None
    cpu.store(AREA + 8, 1, 4, S)
    assert cpu.exception() == (-FAULT_ONE_INSN, 0)
    assert cpu.take(0x100008) == 0
    cpu.set("one_insn", 1)
    cpu.store(AREA + 8, 1, 4, S)
    assert cpu.take(0x100008) == 1
    cpu.after(False)
    assert cpu.exception() == (1, 0)
    assert cpu.get("exc_dr6") == 1


# ---------------------------------------------------------------------- legacy paging
def test_32_bit_paging_with_4_mib_pages() -> None:
    cpu = CpuBench.make()
    cpu.protected()
    cpu.put(TABLES, PS | P | W, 4)
    cpu.put(TABLES + 4, TABLES + 0x1000 | P | W | U, 4)
    cpu.put(TABLES + 0x1000, 0x100000 | P | W | U, 4)
    cpu.put(0x100004, 0xCAFE, 4)
    cpu.set("cr", TABLES, 3)
    cpu.set("cr", 0x10, 4)
    cpu.do("write_cr", 0x80010033, 0, 0)
    assert cpu.load(0x400004, 4, S) == 0xCAFE
    assert cpu.load(0x100004, 4, S) == 0xCAFE
    cpu.load(0x100004, 4, M_USER)
    assert cpu.exception() == (14, 5)
    assert cpu.take(TABLES, 4) & A
    # linear addresses wrap at 4 GiB
    assert cpu.load(0x100400004, 4, S) == 0xCAFE


def test_pae_paging_checks_its_four_pointers() -> None:
    cpu = CpuBench.make()
    cpu.protected()
    cpu.put(TABLES, TABLES + 0x1000 | P)
    cpu.put(TABLES + 0x1000, PS | P | W)
    cpu.set("cr", TABLES, 3)
    cpu.set("cr", 0x20, 4)
    cpu.put(TABLES + 8, 0x1000 | P | W)  # R/W is reserved in a PDPTE
    cpu.do("write_cr", 0x80010033, 0, 0)
    assert cpu.exception() == (13, 0)
    assert cpu.get("cr", 0) == 0x33
    cpu.put(TABLES + 8, 0)
    cpu.do("write_cr", 0x80010033, 0, 0)
    assert cpu.exception() is None
    cpu.put(0x1234, 0xBEEF, 4)
    assert cpu.load(0x1234, 2, S) == 0xBEEF
    cpu.load(0x40000000, 2, S)
    assert cpu.exception() == (14, 0)
    # the registers were loaded: a change in memory counts only after a CR3 write
    cpu.put(TABLES + 8, TABLES + 0x1000 | P)
    cpu.load(0x40001234, 2, S)
    assert cpu.exception() == (14, 0)
    cpu.do("write_cr", TABLES, 0, 3)
    assert cpu.load(0x40001234, 2, S) == 0xBEEF
