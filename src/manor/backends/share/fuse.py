"""Messages of FUSE. Source: Linux, include/uapi/linux/fuse.h (its numbers and layouts), protocol version 7.31."""

from __future__ import annotations

import struct
from enum import IntEnum, IntFlag
from typing import Final

MAJOR: Final = 7
MINOR: Final = 31
"""What is understood here; a newer kernel talks as this version does."""
OLDEST_MINOR: Final = 27
"""Linux 4.18; virtio-fs itself came with 5.4 and 7.31."""
ROOT_ID: Final = 1

IN_HEADER: Final = struct.Struct("<IIQQIIIHH")
OUT_HEADER: Final = struct.Struct("<IiQ")
INIT_IN: Final = struct.Struct("<IIII")
INIT_OUT: Final = struct.Struct("<IIIIHHIIHHI28x")
ATTR: Final = struct.Struct("<QQQQQQIIIIIIIIII")
ENTRY_OUT: Final = struct.Struct("<QQQQII")
ATTR_OUT: Final = struct.Struct("<QII")
OPEN_OUT: Final = struct.Struct("<QII")
WRITE_OUT: Final = struct.Struct("<II")
STATFS_OUT: Final = struct.Struct("<QQQQQIIII24x")
GETXATTR_OUT: Final = struct.Struct("<II")
LSEEK_OUT: Final = struct.Struct("<Q")
DIRENT: Final = struct.Struct("<QQII")

FORGET_IN: Final = struct.Struct("<Q")
BATCH_FORGET_IN: Final = struct.Struct("<II")
FORGET_ONE: Final = struct.Struct("<QQ")
GETATTR_IN: Final = struct.Struct("<IIQ")
SETATTR_IN: Final = struct.Struct("<IIQQQQQQIIIIIIII")
MKNOD_IN: Final = struct.Struct("<IIII")
MKDIR_IN: Final = struct.Struct("<II")
RENAME_IN: Final = struct.Struct("<Q")
RENAME2_IN: Final = struct.Struct("<QII")
LINK_IN: Final = struct.Struct("<Q")
OPEN_IN: Final = struct.Struct("<II")
CREATE_IN: Final = struct.Struct("<IIII")
READ_IN: Final = struct.Struct("<QQIIQII")
WRITE_IN: Final = struct.Struct("<QQIIQII")
RELEASE_IN: Final = struct.Struct("<QIIQ")
FSYNC_IN: Final = struct.Struct("<QII")
SETXATTR_IN: Final = struct.Struct("<II")
GETXATTR_IN: Final = struct.Struct("<II")
LSEEK_IN: Final = struct.Struct("<QQII")
FALLOCATE_IN: Final = struct.Struct("<QQQII")
COPY_IN: Final = struct.Struct("<QQQQQQQ")


class Opcode(IntEnum):
    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    SETATTR = 4
    READLINK = 5
    SYMLINK = 6
    MKNOD = 8
    MKDIR = 9
    UNLINK = 10
    RMDIR = 11
    RENAME = 12
    LINK = 13
    OPEN = 14
    READ = 15
    WRITE = 16
    STATFS = 17
    RELEASE = 18
    FSYNC = 20
    SETXATTR = 21
    GETXATTR = 22
    LISTXATTR = 23
    REMOVEXATTR = 24
    FLUSH = 25
    INIT = 26
    OPENDIR = 27
    READDIR = 28
    RELEASEDIR = 29
    FSYNCDIR = 30
    CREATE = 35
    INTERRUPT = 36
    DESTROY = 38
    BATCH_FORGET = 42
    FALLOCATE = 43
    READDIRPLUS = 44
    RENAME2 = 45
    LSEEK = 46
    COPY_FILE_RANGE = 47
    SYNCFS = 50


NO_REPLY: Final = frozenset((Opcode.FORGET, Opcode.BATCH_FORGET, Opcode.INTERRUPT))


class Init(IntFlag):
    """What kernel and server agree on."""

    ASYNC_READ = 1 << 0
    ATOMIC_O_TRUNC = 1 << 3
    BIG_WRITES = 1 << 5
    AUTO_INVAL_DATA = 1 << 12
    DO_READDIRPLUS = 1 << 13
    READDIRPLUS_AUTO = 1 << 14
    PARALLEL_DIROPS = 1 << 18
    HANDLE_KILLPRIV = 1 << 19
    MAX_PAGES = 1 << 22


class SetAttr(IntFlag):
    """Which fields of SETATTR count."""

    MODE = 1 << 0
    UID = 1 << 1
    GID = 1 << 2
    SIZE = 1 << 3
    ATIME = 1 << 4
    MTIME = 1 << 5
    FH = 1 << 6
    ATIME_NOW = 1 << 7
    MTIME_NOW = 1 << 8


GETATTR_FH: Final = 1
WRITE_CACHE: Final = 1
"""A write of the guest's page cache: it has its own offset, also in a file that is appended to."""
FSYNC_DATA_ONLY: Final = 1
