"""Random operations on an image agree with a plain array of bytes, and leave it clean."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from manor.backends.block.buffers import total
from manor.backends.block.qcow2.check import check_file
from manor.backends.block.qcow2.create import Qcow2Options, create_qcow2
from manor.backends.block.qcow2.header import read_header
from manor.backends.block.qcow2.image import Qcow2Image
from manor.backends.block.qcow2.open import assemble
from manor.backends.block.raw import RawImage
from manor.testing.storage import MemoryFile

SIZE = 160 * 512
BASE = bytes(range(1, 241)) * 200

OPTIONS = st.sampled_from(
    [
        Qcow2Options(cluster_size=512),
        Qcow2Options(cluster_size=4096),
        Qcow2Options(),
        Qcow2Options(version=2, cluster_size=1024),
        Qcow2Options(extended_l2=True, cluster_size=16384),
        Qcow2Options(lazy_refcounts=True, cluster_size=2048),
        *[Qcow2Options(refcount_bits=1 << order, cluster_size=512) for order in range(7)],
        Qcow2Options(preallocation="metadata", cluster_size=512),
        Qcow2Options(data_file="data", cluster_size=4096),
        Qcow2Options(data_file="data", data_file_raw=True, cluster_size=512),
        Qcow2Options(data_file="data", extended_l2=True, cluster_size=16384),
        Qcow2Options(compression_type="zstd", cluster_size=4096),
    ]
)
KINDS = ("write", "write", "write", "pack", "zero", "zero-unmap", "discard", "flush", "reopen")
STEPS = st.lists(
    st.tuples(
        st.sampled_from(KINDS), st.integers(0, 159), st.integers(1, 80), st.integers(1, 255), st.integers(0, 511)
    ),
    max_size=25,
)


class Pair:
    """An image and the bytes that it should hold."""

    def __init__(self, options: Qcow2Options, base: bytes | None) -> None:
        self.file = MemoryFile()
        self.data = MemoryFile() if options.data_file is not None else None
        self.base = base
        create_qcow2(self.file, SIZE, options, data=self.data)
        self.model = bytearray((base or b"")[:SIZE].ljust(SIZE, b"\0"))
        self.options = options
        self.image = self.open()

    def open(self) -> Qcow2Image:
        backing = RawImage(MemoryFile(self.base, read_only=True)) if self.base is not None else None
        data = self.data or self.file
        return assemble(self.file, data, backing, read_header(self.file), is_read_only=False)

    def run(self, kind: str, first: int, count: int, value: int, shift: int) -> None:
        offset = first * 512 + (shift if kind == "write" else 0)
        size = min(count * 512 - (shift if count > 1 else 0), SIZE - offset)
        if size <= 0:
            return
        if kind == "write":
            data = bytes((value + index) & 0xFF for index in range(size))
            half = size // 2
            self.image.write(offset, [memoryview(data)[:half], memoryview(data)[half:]])
            self.model[offset : offset + size] = data
        elif kind == "pack" and self.data is None:
            self.pack(offset, value)
        elif kind.startswith("zero"):
            self.image.write_zeroes(offset, size, kind == "zero-unmap")
            self.model[offset : offset + size] = bytes(size)
        elif kind == "discard":
            self.discard(offset, size)
        elif kind == "flush":
            self.image.flush()
        elif kind == "reopen":
            self.image.close()
            self.check()
            self.image = self.open()
        self.compare()

    def pack(self, offset: int, value: int) -> None:
        unit = self.options.cluster_size
        offset &= -unit
        data = bytes([value, 0, value, 7]) * (unit // 4)
        self.image.write_compressed(offset, data)
        self.model[offset : offset + unit] = data[: SIZE - offset]

    def discard(self, offset: int, size: int) -> None:
        self.image.discard(offset, size)
        found = bytearray(size)
        self.image.read(offset, [memoryview(found)])
        for start in range(0, size, 512):
            piece = found[start : start + 512]
            assert not any(piece) or piece == self.model[offset + start :][: len(piece)]
        self.model[offset : offset + size] = found

    def compare(self) -> None:
        pieces = [memoryview(bytearray(size)) for size in (1, 511, 0, 4096, SIZE - 4608)]
        assert total(pieces) == SIZE
        self.image.read(0, pieces)
        assert b"".join(pieces) == self.model
        at = 0
        for extent in self.image.extents(0, SIZE):
            assert (extent.offset, extent.size > 0) == (at, True)
            at += extent.size
            if extent.kind != "data":
                assert not any(self.model[extent.offset : at])
            elif extent.file_offset is not None:
                source = bytes((self.data or self.file).data) if extent.depth == 0 else self.base or b""
                held = source[extent.file_offset : extent.file_offset + extent.size].ljust(extent.size, b"\0")
                assert held == self.model[extent.offset : at]
        assert at == SIZE
        again = memoryview(bytearray(SIZE))
        if self.image.read_nowait(0, [again]):
            assert again == self.model

    def check(self) -> None:
        found = check_file(self.file, read_header(self.file))
        assert found.is_clean, found.messages
        if self.options.data_file_raw:
            assert self.data is not None
            assert self.data.data == self.model


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(options=OPTIONS, backed=st.sampled_from([None, BASE, BASE[: 40 * 512]]), steps=STEPS)
def test_an_image_is_an_array_of_bytes(
    options: Qcow2Options, backed: bytes | None, steps: list[tuple[str, int, int, int, int]]
) -> None:
    if backed is not None and (options.data_file_raw or options.preallocation != "off"):
        options = replace(options, data_file=None, data_file_raw=False, preallocation="off")
    pair = Pair(options, backed)
    for step in steps:
        pair.run(*step)
    pair.image.close()
    pair.check()
