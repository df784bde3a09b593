"""Registers of an NVMe controller, and numbers of its commands.

Source: NVM Express Base Specification 1.4 (2019), section 3.1 "Register Definition", 4.6.1 "Completion queue entry:
status field", 5 "Admin command set", 6 "NVM command set".
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from manor.regs.access import RO, RW
from manor.regs.field import Field, Reg, RegisterTable, reserved

VERSION: Final = 0x0001_0400
"""1.4.0 (3.1.2)."""
DOORBELLS: Final = 0x1000
"""Offset of the doorbells: tail of submission queue n, then head of completion queue n, 4 bytes each (3.1.16)."""
DOORBELL_SIZE: Final = 4
PAGE: Final = 4096
"""Memory page of the controller: CAP.MPSMIN and MPSMAX are 0."""
MAX_QUEUE_SIZE: Final = 1024
"""Entries of a queue, CAP.MQES plus one."""

_S = "NVMe 1.4, 3.1"
CAP = Reg(
    "cap", 0x00, 64, RO,
    fields=(
        Field("mqes", 0, 16, reset=MAX_QUEUE_SIZE - 1, doc="largest queue size, minus one"),
        Field("cqr", 16, reset=1, doc="queues must be contiguous"),
        Field("ams", 17, 2),
        reserved(19, 5),
        Field("to", 24, 8, reset=120, doc="longest time to get ready, in units of 500 ms"),
        Field("dstrd", 32, 4, doc="doorbell stride, 4 << dstrd bytes"),
        Field("nssrs", 36),
        Field("css", 37, 8, reset=1, doc="NVM command set"),
        Field("bps", 45),
        reserved(46, 2),
        Field("mpsmin", 48, 4),
        Field("mpsmax", 52, 4),
        Field("pmrs", 56),
        Field("cmbs", 57),
        reserved(58, 6),
    ),
    source="NVMe 1.4, 3.1.1",
)  # fmt: skip
VS = Reg("vs", 0x08, 32, RO, reset=VERSION, source="NVMe 1.4, 3.1.2")
INTMS = Reg("intms", 0x0C, 32, RW, stored=False, doc="ones mask interrupts; not for MSI-X", source="NVMe 1.4, 3.1.3")
INTMC = Reg("intmc", 0x10, 32, RW, stored=False, doc="ones unmask interrupts", source="NVMe 1.4, 3.1.4")
CC = Reg(
    "cc", 0x14, 32, RW,
    fields=(
        Field("en", 0),
        reserved(1, 3),
        Field("css", 4, 3),
        Field("mps", 7, 4),
        Field("ams", 11, 3),
        Field("shn", 14, 2, values=((0, "none"), (1, "normal"), (2, "abrupt"))),
        Field("iosqes", 16, 4),
        Field("iocqes", 20, 4),
        reserved(24, 8),
    ),
    source="NVMe 1.4, 3.1.5",
)  # fmt: skip
CSTS = Reg(
    "csts", 0x1C, 32, RO,
    fields=(
        Field("rdy", 0),
        Field("cfs", 1, doc="fatal: the driver must reset"),
        Field("shst", 2, 2, values=((0, "normal operation"), (1, "shutting down"), (2, "shut down"))),
        Field("nssro", 4),
        Field("pp", 5),
        reserved(6, 26),
    ),
    source="NVMe 1.4, 3.1.6",
)  # fmt: skip
NSSR = Reg("nssr", 0x20, 32, RW, stored=False, doc="not supported (CAP.NSSRS)", source="NVMe 1.4, 3.1.7")
AQA = Reg(
    "aqa", 0x24, 32, RW,
    fields=(
        Field("asqs", 0, 12, doc="entries, minus one"),
        reserved(12, 4),
        Field("acqs", 16, 12, doc="entries, minus one"),
        reserved(28, 4),
    ),
    source="NVMe 1.4, 3.1.8",
)  # fmt: skip
ASQ = Reg(
    "asq", 0x28, 64, RW, fields=(reserved(0, 12), Field("asqb", 12, 52)), source="NVMe 1.4, 3.1.9"
)  # fmt: skip
ACQ = Reg(
    "acq", 0x30, 64, RW, fields=(reserved(0, 12), Field("acqb", 12, 52)), source="NVMe 1.4, 3.1.10"
)  # fmt: skip
CMBLOC = Reg("cmbloc", 0x38, 32, RO, doc="no controller memory buffer", source="NVMe 1.4, 3.1.11")
CMBSZ = Reg("cmbsz", 0x3C, 32, RO, source="NVMe 1.4, 3.1.12")
BPINFO = Reg("bpinfo", 0x40, 32, RO, doc="no boot partitions", source="NVMe 1.4, 3.1.13")
BPRSEL = Reg("bprsel", 0x44, 32, RO, source="NVMe 1.4, 3.1.14")
BPMBL = Reg("bpmbl", 0x48, 64, RO, source="NVMe 1.4, 3.1.15")

TABLE = RegisterTable(
    "NVMe controller",
    DOORBELLS,
    (CAP, VS, INTMS, INTMC, CC, CSTS, NSSR, AQA, ASQ, ACQ, CMBLOC, CMBSZ, BPINFO, BPRSEL, BPMBL),
    split=True,  # 64-bit registers may be accessed as two of 32 (3.1)
    source="NVM Express Base Specification 1.4, 3.1",
)


class Admin(IntEnum):
    """Opcodes of admin commands (5)."""

    DELETE_SQ = 0x00
    CREATE_SQ = 0x01
    GET_LOG_PAGE = 0x02
    DELETE_CQ = 0x04
    CREATE_CQ = 0x05
    IDENTIFY = 0x06
    ABORT = 0x08
    SET_FEATURES = 0x09
    GET_FEATURES = 0x0A
    ASYNC_EVENT = 0x0C


class Nvm(IntEnum):
    """Opcodes of NVM commands (6)."""

    FLUSH = 0x00
    WRITE = 0x01
    READ = 0x02
    COMPARE = 0x05
    WRITE_ZEROES = 0x08
    DATASET_MANAGEMENT = 0x09


class Status(IntEnum):
    """Status code type, shifted by 8, and status code of a completion (4.6.1.2)."""

    SUCCESS = 0x000
    INVALID_OPCODE = 0x001
    INVALID_FIELD = 0x002
    COMMAND_ID_CONFLICT = 0x003
    DATA_TRANSFER_ERROR = 0x004
    INTERNAL_ERROR = 0x006
    INVALID_NAMESPACE = 0x00B
    COMMAND_SEQUENCE_ERROR = 0x00C
    PRP_OFFSET_INVALID = 0x013
    WRITE_PROTECTED = 0x020
    LBA_OUT_OF_RANGE = 0x080
    CAPACITY_EXCEEDED = 0x081
    COMPLETION_QUEUE_INVALID = 0x100
    INVALID_QUEUE_IDENTIFIER = 0x101
    INVALID_QUEUE_SIZE = 0x102
    ASYNC_EVENT_LIMIT = 0x105
    INVALID_INTERRUPT_VECTOR = 0x108
    INVALID_LOG_PAGE = 0x109
    INVALID_QUEUE_DELETION = 0x10C
    FEATURE_NOT_SAVEABLE = 0x10D
    FEATURE_NOT_CHANGEABLE = 0x10E
    WRITE_FAULT = 0x280
    UNRECOVERED_READ_ERROR = 0x281
    COMPARE_FAILURE = 0x285


DO_NOT_RETRY: Final = 1 << 14
"""DNR of a status field: the same command would fail again (4.6.1)."""


class FeatureId(IntEnum):
    """Feature identifiers (5.21.1)."""

    ARBITRATION = 0x01
    POWER_MANAGEMENT = 0x02
    TEMPERATURE_THRESHOLD = 0x04
    ERROR_RECOVERY = 0x05
    WRITE_CACHE = 0x06
    QUEUES = 0x07
    INTERRUPT_COALESCING = 0x08
    INTERRUPT_VECTOR = 0x09
    WRITE_ATOMICITY = 0x0A
    ASYNC_EVENTS = 0x0B
