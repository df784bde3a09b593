"""A small assembler for micro-guests: instructions as method calls, labels by name, no toolchain.

    code = Assembler(bits=64)
    code.mov("rcx", 10)
    code.label("again")
    code.out(0x80)                 # AL to port 0x80
    code.dec("rcx")
    code.jnz("again")
    program = code.assemble(origin=0x1000)

Only what the tests need. Source of the encodings: SDM volume 2.
"""

from __future__ import annotations

import struct
from typing import Final, Literal

Bits = Literal[16, 32, 64]
_NAMES: Final = ("ax", "cx", "dx", "bx", "sp", "bp", "si", "di")


class Assembler:
    """Collects code for one mode. Jumps have 32-bit displacements (16-bit in 16-bit code)."""

    def __init__(self, bits: Bits) -> None:
        self.bits = bits
        self._code = bytearray()
        self._labels: dict[str, int] = {}
        self._jumps: list[tuple[int, str]] = []
        self._addresses: list[tuple[int, str, int]] = []

    def assemble(self, origin: int) -> bytes:
        """The code for address `origin`. Raises KeyError for a label that was never placed."""
        code = bytearray(self._code)
        size = 2 if self.bits == 16 else 4
        for place, label in self._jumps:
            distance = self._labels[label] - (place + size)
            code[place : place + size] = (distance & (1 << 8 * size) - 1).to_bytes(size, "little")
        for place, label, width in self._addresses:
            code[place : place + width] = (origin + self._labels[label]).to_bytes(width, "little")
        return bytes(code)

    def raw(self, data: bytes | str) -> None:
        """Bytes as they are, or in hex."""
        self._code += bytes.fromhex(data) if isinstance(data, str) else data

    def label(self, name: str) -> None:
        self._labels[name] = len(self._code)

    def offset(self, label: str) -> int:
        """Of a label that was placed, from the start."""
        return self._labels[label]

    # --- data movement ----------------------------------------------------------------------------------------

    def mov(self, register: str, value: int | str) -> None:
        """A register from a number, or from the address of a label."""
        number, width = self._register(register)
        self._prefix(width)
        self._code.append(0xB8 + number)
        if isinstance(value, str):
            self._addresses.append((len(self._code), value, width))
            value = 0
        self._code += (value & (1 << 8 * width) - 1).to_bytes(width, "little")

    def store(self, address: int, register: str = "eax") -> None:
        """AL, AX or EAX to memory at `address`; EAX in 64-bit mode."""
        self._absolute({"al": 0x88, "ax": 0x89, "eax": 0x89}[register], address, register == "ax")

    def load(self, address: int, register: str = "eax") -> None:
        """AL, AX or EAX from memory at `address`."""
        self._absolute({"al": 0x8A, "ax": 0x8B, "eax": 0x8B}[register], address, register == "ax")

    def _absolute(self, opcode: int, address: int, is_16: bool) -> None:
        if self.bits == 16:
            # 32-bit addresses need a data segment of 4 GiB; real mode reaches 64 KiB.
            prefix = b"" if is_16 or opcode & 1 == 0 else b"\x66"
            self._code += prefix + bytes((opcode, 0x06)) + struct.pack("<H", address)
            return
        if self.bits == 64:
            # R11 as the pointer: 64-bit mode has no absolute 64-bit operand but for the accumulator.
            self._code += b"\x49\xbb" + struct.pack("<Q", address)
            self._code += (b"\x66" if is_16 else b"") + b"\x41" + bytes((opcode, 0x03))
            return
        self._code += (b"\x66" if is_16 else b"") + bytes((opcode, 0x05)) + struct.pack("<I", address)

    def dec(self, register: str) -> None:
        number, width = self._register(register)
        self._prefix(width)
        self._code += bytes((0xFF, 0xC8 + number))

    def add(self, register: str, value: int) -> None:
        """Add a signed byte."""
        number, width = self._register(register)
        self._prefix(width)
        self._code += bytes((0x83, 0xC0 + number, value & 0xFF))

    def push(self, register: str) -> None:
        self._code.append(0x50 + self._register(register)[0])

    def pop(self, register: str) -> None:
        self._code.append(0x58 + self._register(register)[0])

    # --- flow -------------------------------------------------------------------------------------------------

    def jmp(self, label: str) -> None:
        self._jump(b"\xe9", label)

    def jnz(self, label: str) -> None:
        self._jump(b"\x0f\x85", label)

    def jz(self, label: str) -> None:
        self._jump(b"\x0f\x84", label)

    def call(self, label: str) -> None:
        self._jump(b"\xe8", label)

    def ret(self) -> None:
        self._code.append(0xC3)

    def iret(self) -> None:
        self._code += b"\x48\xcf" if self.bits == 64 else b"\xcf"

    def _jump(self, opcode: bytes, label: str) -> None:
        self._code += opcode
        self._jumps.append((len(self._code), label))
        self._code += bytes(2 if self.bits == 16 else 4)

    # --- system -----------------------------------------------------------------------------------------------

    def out(self, port: int, register: str = "al") -> None:
        """AL, AX or EAX to a port; by DX above 255, which it changes."""
        self._port({"al": 0xE6, "ax": 0xE7, "eax": 0xE7}[register], port, register)

    def in_(self, port: int, register: str = "al") -> None:
        self._port({"al": 0xE4, "ax": 0xE5, "eax": 0xE5}[register], port, register)

    def _port(self, opcode: int, port: int, register: str) -> None:
        is_16 = self.bits == 16
        prefix = b"\x66" if (register == "ax") != is_16 and register != "al" else b""
        if port < 0x100:
            self._code += prefix + bytes((opcode, port))
        else:
            self.mov("dx", port)
            self._code += prefix + bytes((opcode + 8,))

    def hlt(self) -> None:
        self._code.append(0xF4)

    def sti(self) -> None:
        self._code.append(0xFB)

    def cli(self) -> None:
        self._code.append(0xFA)

    def wrmsr(self, index: int, value: int) -> None:
        """Changes EAX, ECX and EDX."""
        self.mov("ecx", index)
        self.mov("eax", value & 0xFFFF_FFFF)
        self.mov("edx", value >> 32)
        self._code += b"\x0f\x30"

    def syscall(self) -> None:
        self._code += b"\x0f\x05"

    def lidt(self, address: int) -> None:
        """The interrupt descriptor table register from memory at `address`."""
        if self.bits == 64:
            self._code += b"\x49\xbb" + struct.pack("<Q", address) + b"\x41\x0f\x01\x1b"
        elif self.bits == 32:
            self._code += b"\x0f\x01\x1d" + struct.pack("<I", address)
        else:
            self._code += b"\x0f\x01\x1e" + struct.pack("<H", address)

    # --- inside -----------------------------------------------------------------------------------------------

    def _register(self, name: str) -> tuple[int, int]:
        """(number, bytes) of a register that needs no REX but for its width."""
        width = {"r": 8, "e": 4}.get(name[0], 2)
        return _NAMES.index(name[-2:]), width

    def _prefix(self, width: int) -> None:
        if width == 8:
            self._code.append(0x48)
        elif (width == 2) != (self.bits == 16):
            self._code.append(0x66)
