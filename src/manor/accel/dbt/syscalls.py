"""The Linux system calls of x86-64: names and kinds of arguments, and a readable form of one call.

Source: the numbers are Linux's stable interface to programs (syscalls(2) of the Linux manual pages; arguments
from each call's own page). Flag values: open(2), mmap(2), mprotect(2), on x86-64.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

_TABLE: Final = """\
0 read fpu; 1 write fpu; 2 open sOo; 3 close f; 4 stat sp; 5 fstat fp; 6 lstat sp; 7 poll pud;
8 lseek fld; 9 mmap puPMfx; 10 mprotect puP; 11 munmap pu; 12 brk p; 13 rt_sigaction Sppu;
14 rt_sigprocmask dppu; 15 rt_sigreturn -; 16 ioctl fxp; 17 pread64 fpul; 18 pwrite64 fpul; 19 readv fpu;
20 writev fpu; 21 access so; 22 pipe p; 23 select dpppp; 24 sched_yield -; 25 mremap puuxp; 26 msync pux;
27 mincore pup; 28 madvise pud; 29 shmget dux; 30 shmat dpx; 31 shmctl ddp; 32 dup f; 33 dup2 ff;
34 pause -; 35 nanosleep pp; 36 getitimer dp; 37 alarm u; 38 setitimer dpp; 39 getpid -;
40 sendfile ffpu; 41 socket dxd; 42 connect fpu; 43 accept fpp; 44 sendto fpuxpu; 45 recvfrom fpuxpp;
46 sendmsg fpx; 47 recvmsg fpx; 48 shutdown fd; 49 bind fpu; 50 listen fd; 51 getsockname fpp;
52 getpeername fpp; 53 socketpair dxdp; 54 setsockopt fddpu; 55 getsockopt fddpp; 56 clone xpppp;
57 fork -; 58 vfork -; 59 execve spp; 60 exit d; 61 wait4 dpxp; 62 kill dS; 63 uname p; 64 semget ddx;
65 semop dpu; 66 semctl dddp; 67 shmdt p; 68 msgget dx; 69 msgsnd dpux; 70 msgrcv dpulx; 71 msgctl ddp;
72 fcntl fdx; 73 flock fd; 74 fsync f; 75 fdatasync f; 76 truncate sl; 77 ftruncate fl; 78 getdents fpu;
79 getcwd pu; 80 chdir s; 81 fchdir f; 82 rename ss; 83 mkdir so; 84 rmdir s; 85 creat so; 86 link ss;
87 unlink s; 88 symlink ss; 89 readlink spu; 90 chmod so; 91 fchmod fo; 92 chown sdd; 93 fchown fdd;
94 lchown sdd; 95 umask o; 96 gettimeofday pp; 97 getrlimit dp; 98 getrusage dp; 99 sysinfo p;
100 times p; 101 ptrace ddpp; 102 getuid -; 103 syslog dpu; 104 getgid -; 105 setuid d; 106 setgid d;
107 geteuid -; 108 getegid -; 109 setpgid dd; 110 getppid -; 111 getpgrp -; 112 setsid -;
113 setreuid dd; 114 setregid dd; 115 getgroups dp; 116 setgroups dp; 117 setresuid ddd;
118 getresuid ppp; 119 setresgid ddd; 120 getresgid ppp; 121 getpgid d; 122 setfsuid d; 123 setfsgid d;
124 getsid d; 125 capget pp; 126 capset pp; 127 rt_sigpending pu; 128 rt_sigtimedwait pppu;
129 rt_sigqueueinfo dSp; 130 rt_sigsuspend pu; 131 sigaltstack pp; 132 utime sp; 133 mknod sox;
134 uselib s; 135 personality x; 136 ustat up; 137 statfs sp; 138 fstatfs fp; 139 sysfs dpp;
140 getpriority dd; 141 setpriority ddd; 142 sched_setparam dp; 143 sched_getparam dp;
144 sched_setscheduler ddp; 145 sched_getscheduler d; 146 sched_get_priority_max d;
147 sched_get_priority_min d; 148 sched_rr_get_interval dp; 149 mlock pu; 150 munlock pu; 151 mlockall x;
152 munlockall -; 153 vhangup -; 154 modify_ldt dpu; 155 pivot_root ss; 156 _sysctl p; 157 prctl dxxxx;
158 arch_prctl xp; 159 adjtimex p; 160 setrlimit dp; 161 chroot s; 162 sync -; 163 acct s;
164 settimeofday pp; 165 mount sssxp; 166 umount2 sx; 167 swapon sx; 168 swapoff s; 169 reboot xxxp;
170 sethostname pu; 171 setdomainname pu; 172 iopl d; 173 ioperm uud; 174 create_module su;
175 init_module pus; 176 delete_module sx; 177 get_kernel_syms p; 178 query_module sdpup;
179 quotactl xsdp; 180 nfsservctl dpp; 181 getpmsg xxxxx; 182 putpmsg xxxxx; 183 afs_syscall xxxxx;
184 tuxcall xxx; 185 security xxx; 186 gettid -; 187 readahead flu; 188 setxattr sspux;
189 lsetxattr sspux; 190 fsetxattr fspux; 191 getxattr sspu; 192 lgetxattr sspu; 193 fgetxattr fspu;
194 listxattr spu; 195 llistxattr spu; 196 flistxattr fpu; 197 removexattr ss; 198 lremovexattr ss;
199 fremovexattr fs; 200 tkill dS; 201 time p; 202 futex pduppu; 203 sched_setaffinity dup;
204 sched_getaffinity dup; 205 set_thread_area p; 206 io_setup up; 207 io_destroy p;
208 io_getevents pllpp; 209 io_submit plp; 210 io_cancel ppp; 211 get_thread_area p;
212 lookup_dcookie upu; 213 epoll_create d; 214 epoll_ctl_old fdfp; 215 epoll_wait_old fpd;
216 remap_file_pages puPux; 217 getdents64 fpu; 218 set_tid_address p; 219 restart_syscall -;
220 semtimedop dpup; 221 fadvise64 flud; 222 timer_create dpp; 223 timer_settime dxpp;
224 timer_gettime dp; 225 timer_getoverrun d; 226 timer_delete d; 227 clock_settime dp;
228 clock_gettime dp; 229 clock_getres dp; 230 clock_nanosleep dxpp; 231 exit_group d;
232 epoll_wait fpdd; 233 epoll_ctl fdfp; 234 tgkill ddS; 235 utimes sp; 236 vserver xxxxx;
237 mbind pudpux; 238 set_mempolicy dpu; 239 get_mempolicy ppupx; 240 mq_open sOop; 241 mq_unlink s;
242 mq_timedsend fpuup; 243 mq_timedreceive fpupp; 244 mq_notify fp; 245 mq_getsetattr fpp;
246 kexec_load pupx; 247 waitid ddpxp; 248 add_key sspud; 249 request_key sssd; 250 keyctl dxxxx;
251 ioprio_set ddd; 252 ioprio_get dd; 253 inotify_init -; 254 inotify_add_watch fsx;
255 inotify_rm_watch fd; 256 migrate_pages dupp; 257 openat asOo; 258 mkdirat aso; 259 mknodat asox;
260 fchownat asddx; 261 futimesat asp; 262 newfstatat aspx; 263 unlinkat asx; 264 renameat asas;
265 linkat asasx; 266 symlinkat sas; 267 readlinkat aspu; 268 fchmodat aso; 269 faccessat aso;
270 pselect6 dppppp; 271 ppoll puppu; 272 unshare x; 273 set_robust_list pu; 274 get_robust_list dpp;
275 splice fpfpux; 276 tee ffux; 277 sync_file_range fllx; 278 vmsplice fpux; 279 move_pages dupppx;
280 utimensat aspx; 281 epoll_pwait fpddpu; 282 signalfd fpu; 283 timerfd_create dx; 284 eventfd u;
285 fallocate fxll; 286 timerfd_settime fxpp; 287 timerfd_gettime fp; 288 accept4 fppx;
289 signalfd4 fpux; 290 eventfd2 ux; 291 epoll_create1 x; 292 dup3 ffx; 293 pipe2 px;
294 inotify_init1 x; 295 preadv fpuxx; 296 pwritev fpuxx; 297 rt_tgsigqueueinfo ddSp;
298 perf_event_open pddfx; 299 recvmmsg fpuxp; 300 fanotify_init xx; 301 fanotify_mark fxxas;
302 prlimit64 ddpp; 303 name_to_handle_at asppx; 304 open_by_handle_at apO; 305 clock_adjtime dp;
306 syncfs f; 307 sendmmsg fpux; 308 setns fx; 309 getcpu ppp; 310 process_vm_readv dpupux;
311 process_vm_writev dpupux; 312 kcmp dddxx; 313 finit_module fsx; 314 sched_setattr dpx;
315 sched_getattr dpux; 316 renameat2 asasx; 317 seccomp uxp; 318 getrandom pux; 319 memfd_create sx;
320 kexec_file_load ffusx; 321 bpf dpu; 322 execveat asppx; 323 userfaultfd x; 324 membarrier dxd;
325 mlock2 pux; 326 copy_file_range fpfpux; 327 preadv2 fpuxxx; 328 pwritev2 fpuxxx;
329 pkey_mprotect puPd; 330 pkey_alloc xx; 331 pkey_free d; 332 statx asxxp; 333 io_pgetevents pllppp;
334 rseq puxx; 424 pidfd_send_signal fSpx; 425 io_uring_setup up; 426 io_uring_enter fuuxpu;
427 io_uring_register fupu; 428 open_tree asx; 429 move_mount asasx; 430 fsopen sx; 431 fsconfig fdspd;
432 fsmount fxx; 433 fspick asx; 434 pidfd_open dx; 435 clone3 pu; 436 close_range uux; 437 openat2 aspu;
438 pidfd_getfd ffx; 439 faccessat2 asox; 440 process_madvise fpudx; 441 epoll_pwait2 fpdppu;
442 mount_setattr asxpu; 443 quotactl_fd fxdp; 444 landlock_create_ruleset pux;
445 landlock_add_rule fdpx; 446 landlock_restrict_self fx; 447 memfd_secret x; 448 process_mrelease fx;
449 futex_waitv puxpd; 450 set_mempolicy_home_node puux; 451 cachestat fppx; 452 fchmodat2 asox;
453 map_shadow_stack pux; 454 futex_wake pxdx; 455 futex_wait pxxxpd; 456 futex_requeue pxdd;
457 statmount ppux; 458 listmount ppux; 459 lsm_get_self_attr uppx; 460 lsm_set_self_attr upux;
461 lsm_list_modules ppx; 462 mseal pux
"""
"""number, name, one letter an argument:

d 32-bit integer   l 64-bit integer   u size, count or identifier   x flags or a word   o file mode, octal
p pointer   s path or another NUL-terminated text   f file descriptor   a directory's descriptor or AT_FDCWD
S signal   O flags of open   P protection   M flags of mmap
"""


@dataclass(frozen=True, slots=True)
class Syscall:
    """One system call. kinds: a letter for each argument, see `_TABLE`."""

    number: int
    name: str
    kinds: str


def _parse() -> dict[int, Syscall]:
    calls: dict[int, Syscall] = {}
    for row in _TABLE.replace("\n", " ").split(";"):
        number, name, kinds = row.split()
        calls[int(number)] = Syscall(int(number), name, kinds.strip("-"))
    return calls


SYSCALLS: Final[dict[int, Syscall]] = _parse()
"""By number."""

AT_FDCWD: Final = -100
_ACCESS: Final = ("O_RDONLY", "O_WRONLY", "O_RDWR", "O_ACCMODE")
_CREATING: Final = 0o100 | 0o20000000
"""O_CREAT and the bit of O_TMPFILE: only with one of them does open take a mode."""
# Names of several bits stand before the names of their parts.
_OPEN_FLAGS: Final = (
    (0o4010000, "O_SYNC"), (0o20200000, "O_TMPFILE"), (0o100, "O_CREAT"), (0o200, "O_EXCL"), (0o400, "O_NOCTTY"),
    (0o1000, "O_TRUNC"), (0o2000, "O_APPEND"), (0o4000, "O_NONBLOCK"), (0o10000, "O_DSYNC"), (0o20000, "O_ASYNC"),
    (0o40000, "O_DIRECT"), (0o100000, "O_LARGEFILE"), (0o200000, "O_DIRECTORY"), (0o400000, "O_NOFOLLOW"),
    (0o1000000, "O_NOATIME"), (0o2000000, "O_CLOEXEC"), (0o10000000, "O_PATH"),
)  # fmt: skip
_PROTECTION: Final = (
    (1, "PROT_READ"), (2, "PROT_WRITE"), (4, "PROT_EXEC"), (8, "PROT_SEM"), (0x01000000, "PROT_GROWSDOWN"),
    (0x02000000, "PROT_GROWSUP"),
)  # fmt: skip
_MAP_FLAGS: Final = (
    (3, "MAP_SHARED_VALIDATE"), (1, "MAP_SHARED"), (2, "MAP_PRIVATE"), (0x10, "MAP_FIXED"), (0x20, "MAP_ANONYMOUS"),
    (0x40, "MAP_32BIT"), (0x100, "MAP_GROWSDOWN"), (0x800, "MAP_DENYWRITE"), (0x1000, "MAP_EXECUTABLE"),
    (0x2000, "MAP_LOCKED"), (0x4000, "MAP_NORESERVE"), (0x8000, "MAP_POPULATE"), (0x10000, "MAP_NONBLOCK"),
    (0x20000, "MAP_STACK"), (0x40000, "MAP_HUGETLB"), (0x80000, "MAP_SYNC"), (0x100000, "MAP_FIXED_NOREPLACE"),
)  # fmt: skip
_SIGNALS: Final = (
    "0", "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE", "ALRM",
    "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ", "VTALRM", "PROF",
    "WINCH", "IO", "PWR", "SYS",
)  # fmt: skip

ReadString = Callable[[int], str | None]
"""The text at a guest-virtual address, None if it cannot be read; must not disturb the guest."""


def describe(number: int, arguments: Sequence[int], read_string: ReadString | None = None) -> str:
    """One call as text, such as `write(1, 0x7ffe12, 12)`.

    arguments: the six argument registers as unsigned 64-bit values; those that the call does not take are
    dropped, and for a number that Linux does not define all are shown.
    """
    call = SYSCALLS.get(number)
    if call is None:
        return f"syscall_{number}({', '.join(hex(value) for value in arguments)})"
    values = list(zip(call.kinds, arguments, strict=False))
    if "O" in call.kinds:
        position = call.kinds.index("O")
        if position < len(values) and not values[position][1] & _CREATING:
            del values[position + 1 :]
    return f"{call.name}({', '.join(_argument(kind, value, read_string) for kind, value in values)})"


def _argument(kind: str, value: int, read_string: ReadString | None) -> str:
    match kind:
        case "d" | "f" | "a":
            integer = _signed(value, 32)
            return "AT_FDCWD" if kind == "a" and integer == AT_FDCWD else str(integer)
        case "l":
            return str(_signed(value, 64))
        case "u":
            return str(value)
        case "o":
            return f"0o{value & 0xFFFFFFFF:03o}"
        case "s":
            text = read_string(value) if read_string is not None and value else None
            return _pointer(value) if text is None else json.dumps(text, ensure_ascii=not text.isprintable())
        case "p":
            return _pointer(value)
        case "S":
            return "SIG" + _SIGNALS[value] if 0 < value < len(_SIGNALS) else str(_signed(value, 32))
        case "O":
            return _flags(value & 0xFFFFFFFC, _OPEN_FLAGS, _ACCESS[value & 3])
        case "P":
            return _flags(value, _PROTECTION) or "PROT_NONE"
        case "M":
            return _flags(value, _MAP_FLAGS) or "0"
        case _:
            return hex(value)


def _pointer(value: int) -> str:
    return hex(value) if value else "NULL"


def _signed(value: int, bits: int) -> int:
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value


def _flags(value: int, names: Sequence[tuple[int, str]], first: str = "") -> str:
    """The names of the set bits, joined by `|`; bits without a name follow in hexadecimal."""
    words = [first] if first else []
    for bits, name in names:
        if value & bits == bits:
            words.append(name)
            value &= ~bits
    if value:
        words.append(hex(value))
    return "|".join(words)
