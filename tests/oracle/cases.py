"""The user instructions of x86-64-v2 as data: encodings, operands, and what the SDM leaves undefined.

Source: Intel SDM volume 2 (instruction pages) and volume 1, appendix A "EFLAGS Cross-Reference". One line a form:

    mnemonic | template | operands | attributes

Templates: tests.oracle.encode.parse. Operands use the letters of the SDM's opcode map (volume 2, appendix A):
  E register or memory, M memory only, R register only, G the ModRM reg field, Z the opcode's low bits; each
  with a size: b w d q, v (2, 4 or 8 bytes), y (4 or 8), o (stack-sized: 8, or 2 with a 66 prefix)
  V, W<n>, U  XMM in reg; XMM or n bytes of memory; XMM in rm.   P, Q<n>, N  likewise MMX.   M<n> n bytes
Attributes: lock (also generated with LOCK); reads= and writes= flags; undef= flags left undefined; setup=
  operand preparation in tests.oracle.generate; data= what to fill sources with; fsw= x87 condition codes left
  undefined; single (never inside a block); as=a,b other names capstone may print; host=XX prefix byte to run on
  the host instead of the mandatory prefix, where x86-64-v2 decodes differently from a newer host;
  approx (implementation-specific result bits: only the same CPU family agrees).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from tests.oracle.encode import Template, parse
from tests.oracle.state import AF, CF, DF, FSW_C0, FSW_C1, FSW_C2, FSW_C3, OF, PF, SF, ZF

_FLAG_LETTERS = {"c": CF, "p": PF, "a": AF, "z": ZF, "s": SF, "o": OF, "d": DF}
_FSW_DIGITS = {"0": FSW_C0, "1": FSW_C1, "2": FSW_C2, "3": FSW_C3}


def flag_mask(letters: str) -> int:
    """`cpazso` -> mask."""
    return sum(_FLAG_LETTERS[letter] for letter in letters)


@dataclass(frozen=True)
class Row:
    """One encoding form."""

    group: str
    mnemonic: str
    template_text: str
    operands: tuple[str, ...]
    lock: bool = False
    single: bool = False
    approx: bool = False
    reads: int = 0
    writes: int = 0
    undefined: int = 0
    undefined_fsw: int = 0
    setup: str = ""
    data: str = "int"
    aliases: frozenset[str] = frozenset()
    host_prefix: int | None = None

    @cached_property
    def template(self) -> Template:
        return parse(self.template_text)

    def __str__(self) -> str:
        return f"{self.mnemonic} {','.join(self.operands)} [{self.template_text}]"


ROWS: list[Row] = []


def _add(group: str, text: str, defaults: str = "") -> None:
    for line in text.strip().splitlines():
        parts = [part.strip() for part in line.split("|")] + ["", "", ""]
        mnemonic, template, operands, attributes = parts[:4]
        if not mnemonic:
            continue
        words: dict[str, str] = {}
        for word in (defaults + " " + attributes).split():
            key, _, value = word.partition("=")
            words[key] = value
        row = Row(
            group=group,
            mnemonic=mnemonic,
            template_text=template,
            operands=tuple(operands.split()),
            lock="lock" in words,
            single="single" in words,
            approx="approx" in words,
            reads=flag_mask(words.pop("reads", "")),
            writes=flag_mask(words.pop("writes", "")),
            undefined=flag_mask(words.pop("undef", "")),
            undefined_fsw=sum(_FSW_DIGITS[digit] for digit in words.pop("fsw", "")),
            setup=words.pop("setup", ""),
            data=words.pop("data", "int"),
            aliases=frozenset(words.pop("as", mnemonic).split(",")) | {mnemonic},
            host_prefix=int(words.pop("host"), 16) if "host" in words else None,
        )
        unknown = words.keys() - {"lock", "single", "approx"}
        if unknown:
            raise ValueError(f"unknown attributes {sorted(unknown)} in {line!r}")
        ROWS.append(row)


CONDITIONS = ("o", "no", "b", "ae", "e", "ne", "be", "a", "s", "ns", "p", "np", "l", "ge", "le", "g")
_CONDITION_READS = ("o", "o", "c", "c", "z", "z", "cz", "cz", "s", "s", "p", "p", "so", "so", "zso", "zso")
_ALL = "cpazso"

# --- Integer arithmetic and logic -----------------------------------------------------------------------------------

for _n, _name in enumerate(("add", "or", "adc", "sbb", "and", "sub", "xor", "cmp")):
    _op = _n * 8
    _lock = "" if _name == "cmp" else "lock"
    _flags = "writes=cpazso" + (" undef=a" if _name in ("or", "and", "xor") else "")
    _flags += " reads=c" if _name in ("adc", "sbb") else ""
    _add(
        "alu",
        f"""
        {_name} | {_op:02X} /r     | Eb Gb | {_lock}
        {_name} | {_op + 1:02X} /r | Ev Gv | {_lock}
        {_name} | {_op + 2:02X} /r | Gb Eb
        {_name} | {_op + 3:02X} /r | Gv Ev
        {_name} | {_op + 4:02X} ib | AL
        {_name} | {_op + 5:02X} iz | AXv
        {_name} | 80 /{_n} ib | Eb | {_lock}
        {_name} | 81 /{_n} iz | Ev | {_lock}
        {_name} | 83 /{_n} ib | Ev | {_lock}
        """,
        _flags,
    )
_add(
    "alu",
    """
    test | 84 /r | Eb Gb
    test | 85 /r | Ev Gv
    test | A8 ib | AL
    test | A9 iz | AXv
    test | F6 /0 ib | Eb
    test | F6 /1 ib | Eb
    test | F7 /0 iz | Ev
    test | F7 /1 iz | Ev
    """,
    "writes=cpazso undef=a",
)
_add(
    "alu",
    """
    inc | FE /0 | Eb | writes=pazso lock
    inc | FF /0 | Ev | writes=pazso lock
    dec | FE /1 | Eb | writes=pazso lock
    dec | FF /1 | Ev | writes=pazso lock
    neg | F6 /3 | Eb | writes=cpazso lock
    neg | F7 /3 | Ev | writes=cpazso lock
    not | F6 /2 | Eb | lock
    not | F7 /2 | Ev | lock
    xadd | 0F C0 /r | Eb Gb | writes=cpazso lock
    xadd | 0F C1 /r | Ev Gv | writes=cpazso lock
    cmpxchg | 0F B0 /r | Eb Gb | writes=cpazso lock setup=cmpxchg
    cmpxchg | 0F B1 /r | Ev Gv | writes=cpazso lock setup=cmpxchg
    cmpxchg8b | 0F C7 /1 | M8 | writes=z lock setup=cmpxchg8b single
    cmpxchg16b | W 0F C7 /1 | M16 | writes=z lock setup=cmpxchg16b single
    """,
)

# --- Shifts and rotates: undefined flags depend on the count, see generate.shift_undefined ---------------------------

for _n, _name in (
    (0, "rol"),
    (1, "ror"),
    (2, "rcl"),
    (3, "rcr"),
    (4, "shl"),
    (5, "shr"),
    (6, "shl"),
    (7, "sar"),
):
    _reads = "reads=c" if _name in ("rcl", "rcr") else ""
    _add(
        "shift",
        f"""
        {_name} | C0 /{_n} ib | Eb | setup=shift_imm
        {_name} | C1 /{_n} ib | Ev | setup=shift_imm
        {_name} | D0 /{_n} | Eb | setup=shift_one
        {_name} | D1 /{_n} | Ev | setup=shift_one
        {_name} | D2 /{_n} | Eb | setup=shift_cl
        {_name} | D3 /{_n} | Ev | setup=shift_cl
        """,
        f"as=sal {_reads}",
    )
_add(
    "shift",
    """
    shld | 0F A4 /r ib | Ev Gv | setup=shift_imm
    shld | 0F A5 /r | Ev Gv | setup=shift_cl
    shrd | 0F AC /r ib | Ev Gv | setup=shift_imm
    shrd | 0F AD /r | Ev Gv | setup=shift_cl
    """,
)

# --- Multiply and divide ---------------------------------------------------------------------------------------------

_add(
    "muldiv",
    """
    mul  | F6 /4 | Eb | writes=cpazso undef=pazs
    mul  | F7 /4 | Ev | writes=cpazso undef=pazs
    imul | F6 /5 | Eb | writes=cpazso undef=pazs
    imul | F7 /5 | Ev | writes=cpazso undef=pazs
    imul | 0F AF /r | Gv Ev | writes=cpazso undef=pazs
    imul | 6B /r ib | Gv Ev | writes=cpazso undef=pazs
    imul | 69 /r iz | Gv Ev | writes=cpazso undef=pazs
    div  | F6 /6 | Eb | writes=cpazso undef=cpazso setup=div
    div  | F7 /6 | Ev | writes=cpazso undef=cpazso setup=div
    idiv | F6 /7 | Eb | writes=cpazso undef=cpazso setup=idiv
    idiv | F7 /7 | Ev | writes=cpazso undef=cpazso setup=idiv
    """,
)

# --- Bits ------------------------------------------------------------------------------------------------------------

for _n, _name in ((4, "bt"), (5, "bts"), (6, "btr"), (7, "btc")):
    _lock = "" if _name == "bt" else "lock"
    _add(
        "bit",
        f"""
        {_name} | 0F {0x83 + 8 * _n:02X} /r | Ev Gv | setup=bit_offset {_lock}
        {_name} | 0F BA /{_n} ib | Ev | {_lock}
        """,
        "writes=cpaso undef=paso",
    )
_add(
    "bit",
    """
    bsf | 0F BC /r | Gv Ev | writes=cpazso undef=cpaso setup=bit_scan
    bsr | 0F BD /r | Gv Ev | writes=cpazso undef=cpaso setup=bit_scan
    tzcnt | F3 0F BC /r | Gv Ev | writes=cpazso undef=cpaso setup=bit_scan host=3E as=bsf,tzcnt
    lzcnt | F3 0F BD /r | Gv Ev | writes=cpazso undef=cpaso setup=bit_scan host=3E as=bsr,lzcnt
    popcnt | F3 0F B8 /r | Gv Ev | writes=cpazso
    bswap | 0F C8 +r | Zy
    crc32 | F2 0F 38 F0 /r | Gy Eb
    crc32 | F2 0F 38 F1 /r | Gv Ev
    """,
)

# --- Moves and conversions -------------------------------------------------------------------------------------------

_add(
    "mov",
    """
    mov | 88 /r | Eb Gb
    mov | 89 /r | Ev Gv
    mov | 8A /r | Gb Eb
    mov | 8B /r | Gv Ev
    mov | C6 /0 ib | Eb
    mov | C7 /0 iz | Ev
    mov | B0 +r ib | Zb
    mov | B8 +r iv | Zv | as=movabs
    mov | A0 iq | AL | setup=moffs as=movabs
    mov | A1 iq | AXv | setup=moffs as=movabs
    mov | A2 iq | AL | setup=moffs as=movabs
    mov | A3 iq | AXv | setup=moffs as=movabs
    movzx | 0F B6 /r | Gv Eb
    movzx | 0F B7 /r | Gv Ew
    movsx | 0F BE /r | Gv Eb
    movsx | 0F BF /r | Gv Ew
    movsxd | 63 /r | Gy Ed
    xchg | 86 /r | Eb Gb | lock
    xchg | 87 /r | Ev Gv | lock
    xchg | 90 +r | Zv | as=nop
    lea | 8D /r | Gv M8 | setup=lea
    cbw | O16 98
    cwde | 98
    cdqe | W 98
    cwd | O16 99
    cdq | 99
    cqo | W 99
    xlatb | D7 | | setup=xlat single
    """,
)
for _n, _cc in enumerate(CONDITIONS):
    _add("mov", f"cmov{_cc} | 0F {0x40 + _n:02X} /r | Gv Ev", f"reads={_CONDITION_READS[_n]}")
    _add("mov", f"set{_cc} | 0F {0x90 + _n:02X} /r | Eb", f"reads={_CONDITION_READS[_n]}")

# --- Flags -----------------------------------------------------------------------------------------------------------

_add(
    "flag",
    """
    clc | F8 | | writes=c
    stc | F9 | | writes=c
    cmc | F5 | | writes=c reads=c
    cld | FC | | writes=d
    std | FD | | writes=d
    lahf | 9F | | reads=cpazs
    sahf | 9E | | writes=cpazs
    pushfq | 9C | | reads=cpazso setup=push single
    pushf | O16 9C | | reads=cpazso setup=push single
    popfq | 9D | | writes=cpazso setup=popf single
    popf | O16 9D | | writes=cpazso setup=popf single
    """,
)

# --- Stack -----------------------------------------------------------------------------------------------------------

_add(
    "stack",
    """
    push | 50 +r | Zo
    push | FF /6 | Eo
    push | 68 iz | Io
    push | 6A ib | Io
    pop  | 58 +r | Zo
    pop  | 8F /0 | Eo
    leave | C9 | Io | setup=leave
    enter | C8 iw ib | Io | setup=enter
    push | 0F A0 | Io | single
    push | 0F A8 | Io | single
    """,
    "setup=push single",
)

# --- Control flow ----------------------------------------------------------------------------------------------------

for _n, _cc in enumerate(CONDITIONS):
    _add(
        "flow",
        f"""
        j{_cc} | {0x70 + _n:02X} ib | | setup=jump
        j{_cc} | 0F {0x80 + _n:02X} id | | setup=jump
        """,
        f"reads={_CONDITION_READS[_n]} single",
    )
_add(
    "flow",
    """
    jmp | EB ib | | setup=jump
    jmp | E9 id | | setup=jump
    jmp | FF /4 | E8 | setup=jump_indirect
    call | E8 id | | setup=call
    call | FF /2 | E8 | setup=call_indirect
    ret | C3 | | setup=ret
    ret | C2 iw | | setup=ret_imm
    loop | E2 ib | | setup=loop
    loope | E1 ib | | setup=loop reads=z
    loopne | E0 ib | | setup=loop reads=z
    jrcxz | E3 ib | | setup=loop
    jecxz | 67 E3 ib | | setup=loop
    iretq | W CF | | setup=iret
    retfq | W CB | | setup=retf
    """,
    "single",
)

# --- Strings ---------------------------------------------------------------------------------------------------------

for _rep in ("", "F3", "F2"):
    for _name, _op, _extra in (
        ("movs", 0xA4, ""),
        ("cmps", 0xA6, "writes=cpazso"),
        ("stos", 0xAA, ""),
        ("lods", 0xAC, ""),
        ("scas", 0xAE, "writes=cpazso"),
    ):
        _add(
            "string",
            f"""
            {_name}b | {_op:02X} | B
            {_name}w | O16 {_op + 1:02X} | W
            {_name}d | {_op + 1:02X} | D
            {_name}q | W {_op + 1:02X} | Q
            """,
            f"setup=string{_rep} single {_extra}",
        )

# --- No-operations, hints, deliberate faults -------------------------------------------------------------------------

_add(
    "nop",
    """
    nop | 90
    nop | O16 90 | | as=xchg
    nop | 0F 1F /0 | Ev
    pause | F3 90
    endbr64 | F3 0F 1E FA
    endbr32 | F3 0F 1E FB
    prefetchnta | 0F 18 /0 | M1
    prefetcht0 | 0F 18 /1 | M1
    prefetcht1 | 0F 18 /2 | M1
    prefetcht2 | 0F 18 /3 | M1
    prefetchw | 0F 0D /1 | M1
    clflush | 0F AE /7 | M1
    lfence | 0F AE E8
    mfence | 0F AE F0
    sfence | 0F AE F8
    """,
)
_add(
    "fault",
    """
    ud2 | 0F 0B
    ud1 | 0F B9 /r | Gd Ed
    int3 | CC
    hlt | F4
    cli | FA
    sti | FB
    in | EC
    in | ED
    in | E4 ib
    out | EE
    out | E6 ib
    insb | 6C
    insd | 6D
    outsb | 6E
    outsd | 6F
    clts | 0F 06
    invd | 0F 08
    wbinvd | 0F 09
    wrmsr | 0F 30
    rdmsr | 0F 32
    swapgs | 0F 01 F8
    invlpg | 0F 01 /7 | M1
    lgdt | 0F 01 /2 | M10
    lidt | 0F 01 /3 | M10
    lldt | 0F 00 /2 | Ew
    ltr | 0F 00 /3 | Ew
    lmsw | 0F 01 /6 | Ew
    mov | 0F 20 C0
    mov | 0F 22 C0
    mov | 0F 21 C0
    mov | 0F 23 C0
    mov | 0F 20 C8
    sysretq | W 0F 07 | | as=sysret
    sysexit | 0F 35
    int | CD ib | | setup=int
    pushes | 06 | | as=none
    aam | D4 0A | | as=none
    into | CE | | as=none
    """,
    "single",
)

# --- SSE to SSE4.2: moves and shuffles -------------------------------------------------------------------------------

_add(
    "sse_mov",
    """
    movaps | 0F 28 /r | V W16
    movaps | 0F 29 /r | W16 V
    movups | 0F 10 /r | V W16
    movups | 0F 11 /r | W16 V
    movapd | 66 0F 28 /r | V W16
    movapd | 66 0F 29 /r | W16 V
    movupd | 66 0F 10 /r | V W16
    movupd | 66 0F 11 /r | W16 V
    movss | F3 0F 10 /r | V W4
    movss | F3 0F 11 /r | W4 V
    movsd | F2 0F 10 /r | V W8
    movsd | F2 0F 11 /r | W8 V
    movdqa | 66 0F 6F /r | V W16
    movdqa | 66 0F 7F /r | W16 V
    movdqu | F3 0F 6F /r | V W16
    movdqu | F3 0F 7F /r | W16 V
    movd | 66 0F 6E /r | V Ed
    movd | 66 0F 7E /r | Ed V
    movq | 66 W 0F 6E /r | V Eq
    movq | 66 W 0F 7E /r | Eq V
    movq | F3 0F 7E /r | V W8
    movq | 66 0F D6 /r | W8 V
    movhlps | 0F 12 /r | V U
    movlhps | 0F 16 /r | V U
    movlps | 0F 12 /r | V M8
    movlps | 0F 13 /r | V M8
    movhps | 0F 16 /r | V M8
    movhps | 0F 17 /r | V M8
    movlpd | 66 0F 12 /r | V M8
    movlpd | 66 0F 13 /r | V M8
    movhpd | 66 0F 16 /r | V M8
    movhpd | 66 0F 17 /r | V M8
    movddup | F2 0F 12 /r | V W8
    movsldup | F3 0F 12 /r | V W16
    movshdup | F3 0F 16 /r | V W16
    lddqu | F2 0F F0 /r | V M16
    movntps | 0F 2B /r | V M16
    movntpd | 66 0F 2B /r | V M16
    movntdq | 66 0F E7 /r | V M16
    movntdqa | 66 0F 38 2A /r | V M16
    movnti | 0F C3 /r | Gy My
    movmskps | 0F 50 /r | Gd U
    movmskpd | 66 0F 50 /r | Gd U
    pmovmskb | 66 0F D7 /r | Gd U
    maskmovdqu | 66 0F F7 /r | V U | setup=maskmov single
    shufps | 0F C6 /r ib | V W16
    shufpd | 66 0F C6 /r ib | V W16
    unpcklps | 0F 14 /r | V W16
    unpckhps | 0F 15 /r | V W16
    unpcklpd | 66 0F 14 /r | V W16
    unpckhpd | 66 0F 15 /r | V W16
    pshufd | 66 0F 70 /r ib | V W16
    pshufhw | F3 0F 70 /r ib | V W16
    pshuflw | F2 0F 70 /r ib | V W16
    insertps | 66 0F 3A 21 /r ib | V W4
    extractps | 66 0F 3A 17 /r ib | Ed V
    blendps | 66 0F 3A 0C /r ib | V W16
    blendpd | 66 0F 3A 0D /r ib | V W16
    pblendw | 66 0F 3A 0E /r ib | V W16
    blendvps | 66 0F 38 14 /r | V W16
    blendvpd | 66 0F 38 15 /r | V W16
    pblendvb | 66 0F 38 10 /r | V W16
    pextrb | 66 0F 3A 14 /r ib | E1 V
    pextrw | 66 0F 3A 15 /r ib | E2 V
    pextrd | 66 0F 3A 16 /r ib | Ed V
    pextrq | 66 W 0F 3A 16 /r ib | Eq V
    pextrw | 66 0F C5 /r ib | Gd U
    pinsrb | 66 0F 3A 20 /r ib | V E1
    pinsrw | 66 0F C4 /r ib | V E2
    pinsrd | 66 0F 3A 22 /r ib | V Ed
    pinsrq | 66 W 0F 3A 22 /r ib | V Eq
    ldmxcsr | 0F AE /2 | M4 | setup=mxcsr
    stmxcsr | 0F AE /3 | M4
    """,
)

# --- SSE floating point ----------------------------------------------------------------------------------------------

for _name, _op in (
    ("add", 0x58),
    ("mul", 0x59),
    ("sub", 0x5C),
    ("min", 0x5D),
    ("div", 0x5E),
    ("max", 0x5F),
    ("sqrt", 0x51),
):
    _add(
        "sse_fp",
        f"""
        {_name}ps | 0F {_op:02X} /r | V W16 | data=f32
        {_name}pd | 66 0F {_op:02X} /r | V W16 | data=f64
        {_name}ss | F3 0F {_op:02X} /r | V W4 | data=f32
        {_name}sd | F2 0F {_op:02X} /r | V W8 | data=f64
        """,
    )
for _name, _op in (("and", 0x54), ("andn", 0x55), ("or", 0x56), ("xor", 0x57)):
    _add("sse_fp", f"{_name}ps | 0F {_op:02X} /r | V W16\n{_name}pd | 66 0F {_op:02X} /r | V W16")
_COMPARISONS = ("eq", "lt", "le", "unord", "neq", "nlt", "nle", "ord")
for _type, _prefix, _size, _data in (
    ("ps", "", 16, "f32"),
    ("pd", "66", 16, "f64"),
    ("ss", "F3", 4, "f32"),
    ("sd", "F2", 8, "f64"),
):
    _names = ",".join(f"cmp{_c}{_type}" for _c in _COMPARISONS)
    _add("sse_fp", f"cmp{_type} | {_prefix} 0F C2 /r ib | V W{_size} | data={_data} as={_names}")
_add(
    "sse_fp",
    """
    ucomiss | 0F 2E /r | V W4 | data=f32 writes=cpazso
    ucomisd | 66 0F 2E /r | V W8 | data=f64 writes=cpazso
    comiss | 0F 2F /r | V W4 | data=f32 writes=cpazso
    comisd | 66 0F 2F /r | V W8 | data=f64 writes=cpazso
    haddps | F2 0F 7C /r | V W16 | data=f32
    haddpd | 66 0F 7C /r | V W16 | data=f64
    hsubps | F2 0F 7D /r | V W16 | data=f32
    hsubpd | 66 0F 7D /r | V W16 | data=f64
    addsubps | F2 0F D0 /r | V W16 | data=f32
    addsubpd | 66 0F D0 /r | V W16 | data=f64
    dpps | 66 0F 3A 40 /r ib | V W16 | data=f32
    dppd | 66 0F 3A 41 /r ib | V W16 | data=f64
    roundps | 66 0F 3A 08 /r ib | V W16 | data=f32
    roundpd | 66 0F 3A 09 /r ib | V W16 | data=f64
    roundss | 66 0F 3A 0A /r ib | V W4 | data=f32
    roundsd | 66 0F 3A 0B /r ib | V W8 | data=f64
    rcpps | 0F 53 /r | V W16 | data=f32 approx
    rcpss | F3 0F 53 /r | V W4 | data=f32 approx
    rsqrtps | 0F 52 /r | V W16 | data=f32 approx
    rsqrtss | F3 0F 52 /r | V W4 | data=f32 approx
    """,
)
_add(
    "sse_cvt",
    """
    cvtps2pd | 0F 5A /r | V W8 | data=f32
    cvtpd2ps | 66 0F 5A /r | V W16 | data=f64
    cvtss2sd | F3 0F 5A /r | V W4 | data=f32
    cvtsd2ss | F2 0F 5A /r | V W8 | data=f64
    cvtdq2ps | 0F 5B /r | V W16
    cvtps2dq | 66 0F 5B /r | V W16 | data=f32
    cvttps2dq | F3 0F 5B /r | V W16 | data=f32
    cvttpd2dq | 66 0F E6 /r | V W16 | data=f64
    cvtdq2pd | F3 0F E6 /r | V W8
    cvtpd2dq | F2 0F E6 /r | V W16 | data=f64
    cvtsi2ss | F3 0F 2A /r | V Ey
    cvtsi2sd | F2 0F 2A /r | V Ey
    cvttss2si | F3 0F 2C /r | Gy W4 | data=f32
    cvtss2si | F3 0F 2D /r | Gy W4 | data=f32
    cvttsd2si | F2 0F 2C /r | Gy W8 | data=f64
    cvtsd2si | F2 0F 2D /r | Gy W8 | data=f64
    cvtpi2ps | 0F 2A /r | V Q8
    cvtpi2pd | 66 0F 2A /r | V Q8
    cvttps2pi | 0F 2C /r | P W8 | data=f32
    cvtps2pi | 0F 2D /r | P W8 | data=f32
    cvttpd2pi | 66 0F 2C /r | P W16 | data=f64
    cvtpd2pi | 66 0F 2D /r | P W16 | data=f64
    """,
)

# --- Packed integers: the same opcode without 66 is the MMX form ------------------------------------------------------

_BOTH = """
60 punpcklbw  61 punpcklwd  62 punpckldq  63 packsswb  64 pcmpgtb  65 pcmpgtw  66 pcmpgtd  67 packuswb  68
punpckhbw  69 punpckhwd  6A punpckhdq  6B packssdw  74 pcmpeqb  75 pcmpeqw  76 pcmpeqd  D1 psrlw  D2 psrld  D3
psrlq  D4 paddq  D5 pmullw  D8 psubusb  D9 psubusw  DA pminub  DB pand  DC paddusb  DD paddusw  DE pmaxub  DF
pandn  E0 pavgb  E1 psraw  E2 psrad  E3 pavgw  E4 pmulhuw  E5 pmulhw  E8 psubsb  E9 psubsw  EA pminsw  EB por
EC paddsb  ED paddsw  EE pmaxsw  EF pxor  F1 psllw  F2 pslld  F3 psllq  F4 pmuludq  F5 pmaddwd  F6 psadbw  F8
psubb  F9 psubw  FA psubd  FB psubq  FC paddb  FD paddw  FE paddd
""".split()  # noqa: SIM905  (a table reads better than a list)
for _op_text, _name in zip(_BOTH[::2], _BOTH[1::2], strict=True):
    _data = "data=count" if _name in ("psrlw", "psrld", "psrlq", "psraw", "psrad", "psllw", "pslld", "psllq") else ""
    _add("sse_int", f"{_name} | 66 0F {_op_text} /r | V W16 | {_data}")
    _add("mmx", f"{_name} | 0F {_op_text} /r | P Q{4 if _name.startswith('punpckl') else 8} | {_data}")
_BOTH_38 = """
00 pshufb  01 phaddw  02 phaddd  03 phaddsw  04 pmaddubsw  05 phsubw  06 phsubd  07 phsubsw  08 psignb  09
psignw  0A psignd  0B pmulhrsw  1C pabsb  1D pabsw  1E pabsd
""".split()  # noqa: SIM905  (a table reads better than a list)
for _op_text, _name in zip(_BOTH_38[::2], _BOTH_38[1::2], strict=True):
    _add("sse_int", f"{_name} | 66 0F 38 {_op_text} /r | V W16")
    _add("mmx", f"{_name} | 0F 38 {_op_text} /r | P Q8")
_ONLY_38 = """
28 pmuldq  29 pcmpeqq  2B packusdw  37 pcmpgtq  38 pminsb  39 pminsd  3A pminuw  3B pminud  3C pmaxsb  3D
pmaxsd  3E pmaxuw  3F pmaxud  40 pmulld  41 phminposuw
""".split()  # noqa: SIM905  (a table reads better than a list)
for _op_text, _name in zip(_ONLY_38[::2], _ONLY_38[1::2], strict=True):
    _add("sse_int", f"{_name} | 66 0F 38 {_op_text} /r | V W16")
for _n, (_name, _size) in enumerate((("bw", 8), ("bd", 4), ("bq", 2), ("wd", 8), ("wq", 4), ("dq", 8))):
    _add("sse_int", f"pmovsx{_name} | 66 0F 38 {0x20 + _n:02X} /r | V W{_size}")
    _add("sse_int", f"pmovzx{_name} | 66 0F 38 {0x30 + _n:02X} /r | V W{_size}")
for _op_text, _digit, _name in (
    ("71", 2, "psrlw"), ("71", 4, "psraw"), ("71", 6, "psllw"), ("72", 2, "psrld"), ("72", 4, "psrad"),
    ("72", 6, "pslld"), ("73", 2, "psrlq"), ("73", 6, "psllq"),
):  # fmt: skip
    _add("sse_int", f"{_name} | 66 0F {_op_text} /{_digit} ib | U | setup=shift_count")
    _add("mmx", f"{_name} | 0F {_op_text} /{_digit} ib | N | setup=shift_count")
_add(
    "sse_int",
    """
    punpcklqdq | 66 0F 6C /r | V W16
    punpckhqdq | 66 0F 6D /r | V W16
    psrldq | 66 0F 73 /3 ib | U | setup=shift_count
    pslldq | 66 0F 73 /7 ib | U | setup=shift_count
    palignr | 66 0F 3A 0F /r ib | V W16 | setup=shift_count
    ptest | 66 0F 38 17 /r | V W16 | writes=cpazso
    mpsadbw | 66 0F 3A 42 /r ib | V W16
    """,
)
_add(
    "sse_str",
    """
    pcmpestrm | 66 0F 3A 60 /r ib | V W16
    pcmpestri | 66 0F 3A 61 /r ib | V W16
    pcmpistrm | 66 0F 3A 62 /r ib | V W16
    pcmpistri | 66 0F 3A 63 /r ib | V W16
    """,
    "writes=cpazso setup=text single",
)
_add(
    "mmx",
    """
    movd | 0F 6E /r | P Ed
    movd | 0F 7E /r | Ed P
    movq | W 0F 6E /r | P Eq
    movq | W 0F 7E /r | Eq P
    movq | 0F 6F /r | P Q8
    movq | 0F 7F /r | Q8 P
    movntq | 0F E7 /r | P M8
    movq2dq | F3 0F D6 /r | V N
    movdq2q | F2 0F D6 /r | P U
    maskmovq | 0F F7 /r | P N | setup=maskmov single
    pmovmskb | 0F D7 /r | Gd N
    pshufw | 0F 70 /r ib | P Q8
    pinsrw | 0F C4 /r ib | P E2
    pextrw | 0F C5 /r ib | Gd N
    palignr | 0F 3A 0F /r ib | P Q8 | setup=shift_count
    emms | 0F 77
    """,
)

# --- x87 -------------------------------------------------------------------------------------------------------------

for _n, _name in enumerate(("add", "mul", "com", "comp", "sub", "subr", "div", "divr")):
    _fsw = "" if _name in ("com", "comp") else "fsw=023"
    _add(
        "x87",
        f"""
        f{_name} | D8 /{_n} | M4 | data=f32 {_fsw}
        f{_name} | DC /{_n} | M8 | data=f64 {_fsw}
        fi{_name} | DA /{_n} | M4 | {_fsw}
        fi{_name} | DE /{_n} | M2 | {_fsw}
        """,
    )
    for _i in range(8):
        _add("x87", f"f{_name} | D8 {0xC0 + 8 * _n + _i:02X} | | {_fsw}")
        if _name in ("com", "comp"):
            continue
        # DC and DE swap the two subtractions and the two divisions (SDM volume 2, table "D8 to DF opcode maps").
        _m = _n ^ 1 if _n >= 4 else _n
        _add("x87", f"f{_name} | DC {0xC0 + 8 * _m + _i:02X} | | {_fsw}")
        _add("x87", f"f{_name}p | DE {0xC0 + 8 * _m + _i:02X} | | {_fsw}")
for _i in range(8):
    _add(
        "x87",
        f"""
        fld | D9 {0xC0 + _i:02X} | | fsw=023
        fxch | D9 {0xC8 + _i:02X} | | fsw=023
        ffree | DD {0xC0 + _i:02X} | | fsw=0123
        fstpnce | D9 {0xD8 + _i:02X} | | fsw=023
        fst | DD {0xD0 + _i:02X} | | fsw=023
        fstp | DD {0xD8 + _i:02X} | | fsw=023
        fucom | DD {0xE0 + _i:02X}
        fucomp | DD {0xE8 + _i:02X}
        fucomi | DB {0xE8 + _i:02X} | | writes=cpazso fsw=023
        fcomi | DB {0xF0 + _i:02X} | | writes=cpazso fsw=023
        fucompi | DF {0xE8 + _i:02X} | | writes=cpazso fsw=023 as=fucomip
        fcompi | DF {0xF0 + _i:02X} | | writes=cpazso fsw=023 as=fcomip
        fcmovb | DA {0xC0 + _i:02X} | | reads=c fsw=023
        fcmove | DA {0xC8 + _i:02X} | | reads=z fsw=023
        fcmovbe | DA {0xD0 + _i:02X} | | reads=cz fsw=023
        fcmovu | DA {0xD8 + _i:02X} | | reads=p fsw=023
        fcmovnb | DB {0xC0 + _i:02X} | | reads=c fsw=023
        fcmovne | DB {0xC8 + _i:02X} | | reads=z fsw=023
        fcmovnbe | DB {0xD0 + _i:02X} | | reads=cz fsw=023
        fcmovnu | DB {0xD8 + _i:02X} | | reads=p fsw=023
        """,
    )
_add(
    "x87",
    """
    fld | D9 /0 | M4 | data=f32 fsw=023
    fst | D9 /2 | M4 | fsw=023
    fstp | D9 /3 | M4 | fsw=023
    fld | DD /0 | M8 | data=f64 fsw=023
    fst | DD /2 | M8 | fsw=023
    fstp | DD /3 | M8 | fsw=023
    fld | DB /5 | M10 | data=f80 fsw=023
    fstp | DB /7 | M10 | fsw=023
    fild | DF /0 | M2 | fsw=023
    fild | DB /0 | M4 | fsw=023
    fild | DF /5 | M8 | fsw=023
    fist | DF /2 | M2 | fsw=023
    fist | DB /2 | M4 | fsw=023
    fistp | DF /3 | M2 | fsw=023
    fistp | DB /3 | M4 | fsw=023
    fistp | DF /7 | M8 | fsw=023
    fisttp | DF /1 | M2 | fsw=023
    fisttp | DB /1 | M4 | fsw=023
    fisttp | DD /1 | M8 | fsw=023
    fbld | DF /4 | M10 | data=bcd fsw=023
    fbstp | DF /6 | M10 | fsw=023
    fchs | D9 E0 | | fsw=023
    fabs | D9 E1 | | fsw=023
    ftst | D9 E4
    fxam | D9 E5
    fld1 | D9 E8 | | fsw=023
    fldl2t | D9 E9 | | fsw=023
    fldl2e | D9 EA | | fsw=023
    fldpi | D9 EB | | fsw=023
    fldlg2 | D9 EC | | fsw=023
    fldln2 | D9 ED | | fsw=023
    fldz | D9 EE | | fsw=023
    fxtract | D9 F4 | | fsw=023
    fprem1 | D9 F5
    fprem | D9 F8
    fdecstp | D9 F6 | | fsw=023
    fincstp | D9 F7 | | fsw=023
    fsqrt | D9 FA | | fsw=023
    frndint | D9 FC | | fsw=023
    fscale | D9 FD | | fsw=023
    f2xm1 | D9 F0 | | fsw=023 approx
    fyl2x | D9 F1 | | fsw=023 approx
    fptan | D9 F2 | | fsw=03 approx
    fpatan | D9 F3 | | fsw=023 approx
    fyl2xp1 | D9 F9 | | fsw=023 approx
    fsincos | D9 FB | | fsw=03 approx
    fsin | D9 FE | | fsw=03 approx
    fcos | D9 FF | | fsw=03 approx
    fucompp | DA E9
    fcompp | DE D9
    """,
)
_add(
    "x87_env",
    """
    fnop | D9 D0 | | fsw=0123
    wait | 9B | | fsw=0123 as=fwait
    fnclex | DB E2 | | fsw=0123
    fninit | DB E3
    fldcw | D9 /5 | M2 | fsw=0123 setup=fcw
    fnstcw | D9 /7 | M2 | fsw=0123
    fnstsw | DD /7 | M2 | fsw=0123
    fnstsw | DF E0 | | fsw=0123
    fldenv | D9 /4 | M28 | setup=fenv single
    fnstenv | D9 /6 | M28 | setup=fstenv single
    fnsave | DD /6 | M108 | setup=fstenv single
    frstor | DD /4 | M108 | setup=fenv single
    fxsave | 0F AE /0 | M512 | setup=fxsave single
    fxsave64 | W 0F AE /0 | M512 | setup=fxsave single
    fxrstor | 0F AE /1 | M512 | setup=fxrstor single
    fxrstor64 | W 0F AE /1 | M512 | setup=fxrstor single
    """,
)

GROUPS = tuple(dict.fromkeys(row.group for row in ROWS))

NOT_COVERED = {
    "cpuid": "answers differ by CPU; tested with the CPUID model",
    "rdtsc": "not deterministic",
    "rdtscp": "not deterministic",
    "rdpmc": "depends on CR4.PCE and on counters",
    "syscall": "enters the kernel of the oracle's host; system tests",
    "sysenter": "enters the kernel of the oracle's host; system tests",
    "sysretd": "faults like sysretq at CPL 3; system tests",
    "iret": "16 and 32-bit forms switch mode; iretq is covered",
    "iretw": "switches mode; system tests",
    "retf": "switches to 32-bit segments; retfq is covered",
    "retfw": "switches to 16-bit segments",
    "jmpw": "16-bit operand size differs between Intel and AMD in 64-bit mode",
    "retw": "as jmpw",
    "leavew": "66 C9: rarely used; leave with 66 is generated under leave",
    "int1": "debug exception; system tests",
    "lar": "depends on the GDT; system tests",
    "lsl": "depends on the GDT; system tests",
    "verw": "depends on the GDT; system tests",
    "lfs": "depends on the GDT; system tests",
    "lgs": "depends on the GDT; system tests",
    "sgdt": "UMIP: emulated by the host's kernel; system tests",
    "sidt": "UMIP: emulated by the host's kernel; system tests",
    "sldt": "UMIP: emulated by the host's kernel; system tests",
    "str": "UMIP: emulated by the host's kernel; system tests",
    "monitor": "#UD at CPL 3 on the host; not in the presented CPUID",
    "mwait": "as monitor",
    "xgetbv": "XCR0 belongs to the host; system tests",
    "xsetbv": "#GP at CPL 3; system tests",
    "xsave": "XCR0 and XINUSE belong to the host; unit tests",
    "xrstor": "as xsave",
    "ud0": "length differs between processor generations",
}
"""Mnemonics of the checklist that user-mode cases cannot decide, with the reason."""
