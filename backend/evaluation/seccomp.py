"""Which system calls an answer's process may make, as a filter the kernel runs. Knows numbers, not processes.

The list allows: what is not on it does not exist for the program (ENOSYS), so a call that Linux adds next year is
closed too. Not on it: sockets of every family, exec, fork, vfork, clone (threads as well: no count binds root), every
signal to others, ptrace, io_uring, and chmod, chown, utime and xattr, which Landlock does not cover. ENOSYS rather than
EPERM because libc then falls back on the older call it knows. A foreign architecture or an x32 number kills.
"""

from __future__ import annotations

import errno
import struct
from typing import NamedTuple


class Machine(NamedTuple):
    """An architecture's audit number and its column in the table below."""

    audit: int
    column: int


MACHINES = {"x86_64": Machine(0xC000003E, 0), "aarch64": Machine(0xC00000B7, 1)}
X32 = 0x40000000  # the bit that marks a call of the x32 interface on x86-64

# name: (x86_64, aarch64)
ALLOWED: dict[str, tuple[int, int]] = {
    # files that are open, or that Landlock lets the program open
    "read": (0, 63),
    "write": (1, 64),
    "readv": (19, 65),
    "writev": (20, 66),
    "pread64": (17, 67),
    "pwrite64": (18, 68),
    "lseek": (8, 62),
    "openat": (257, 56),
    "close": (3, 57),
    "close_range": (436, 436),
    "dup": (32, 23),
    "dup3": (292, 24),
    "pipe2": (293, 59),
    "fstat": (5, 80),
    "newfstatat": (262, 79),
    "statx": (332, 291),
    "faccessat": (269, 48),
    "faccessat2": (439, 439),
    "getdents64": (217, 61),
    "getcwd": (79, 17),
    "chdir": (80, 49),
    "fchdir": (81, 50),
    "readlinkat": (267, 78),
    "unlinkat": (263, 35),
    "renameat2": (316, 276),
    "renameat": (264, 38),
    "truncate": (76, 45),
    "ftruncate": (77, 46),
    "fsync": (74, 82),
    "fdatasync": (75, 83),
    "fadvise64": (221, 223),
    "copy_file_range": (326, 285),
    "sendfile": (40, 71),
    "umask": (95, 166),
    "ppoll": (271, 73),
    "pselect6": (270, 72),
    # memory
    "mmap": (9, 222),
    "munmap": (11, 215),
    "mremap": (25, 216),
    "mprotect": (10, 226),
    "madvise": (28, 233),
    "brk": (12, 214),
    # time, chance, facts about itself
    "clock_gettime": (228, 113),
    "clock_getres": (229, 114),
    "clock_nanosleep": (230, 115),
    "nanosleep": (35, 101),
    "gettimeofday": (96, 169),
    "getrandom": (318, 278),
    "getpid": (39, 172),
    "getppid": (110, 173),
    "gettid": (186, 178),
    "getuid": (102, 174),
    "geteuid": (107, 175),
    "getgid": (104, 176),
    "getegid": (108, 177),
    "uname": (63, 160),
    "sysinfo": (99, 179),
    "times": (100, 153),
    "getrusage": (98, 165),
    "sched_getaffinity": (204, 123),
    "sched_yield": (24, 124),
    "getcpu": (309, 168),
    # signals to itself, waiting, the end
    "futex": (202, 98),
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "sigaltstack": (131, 132),
    "restart_syscall": (219, 128),
    "set_robust_list": (273, 99),
    "rseq": (334, 293),
    "membarrier": (324, 283),
    "exit": (60, 93),
    "exit_group": (231, 94),
}
# the older names, which only x86-64 still has
ALLOWED_X86 = {
    "open": 2,
    "stat": 4,
    "lstat": 6,
    "access": 21,
    "dup2": 33,
    "pipe": 22,
    "poll": 7,
    "select": 23,
    "readlink": 89,
    "rename": 82,
    "unlink": 87,
    "time": 201,
}
# call: (x86_64, aarch64), which argument decides, the values allowed
DECIDED: dict[str, tuple[tuple[int, int], int, tuple[int, ...]]] = {
    "ioctl": ((16, 29), 1, (0x5401, 0x5450, 0x5451)),  # is it a terminal, close on exec: no more
    "fcntl": ((72, 25), 1, (0, 1, 2, 3, 4, 1030)),  # duplicate, flags; F_SETOWN would aim a signal at others
    "prlimit64": ((302, 261), 2, (0,)),  # read a limit, set none: the parent's could be set too
}

LOAD, EQUAL, AT_LEAST, RETURN = 0x20, 0x15, 0x35, 0x06
ALLOW, KILL, ABSENT = 0x7FFF0000, 0x80000000, 0x00050000 | errno.ENOSYS
NUMBER, ARCHITECTURE, ARGUMENTS = 0, 4, 16  # offsets in the record the kernel shows the filter


def program(machine: str) -> bytes:
    """The filter for `machine` (as `platform.machine()` says it), as the kernel's array of 8-byte instructions.

    Raises:
        KeyError: `machine` is not in MACHINES.

    >>> load_architecture = program("x86_64")[:8]
    >>> load_architecture.hex(" ", 2)
    '2000 0000 0400 0000'
    """
    audit, column = MACHINES[machine]
    lines = [(LOAD, 0, 0, ARCHITECTURE), (EQUAL, 1, 0, audit), (RETURN, 0, 0, KILL), (LOAD, 0, 0, NUMBER)]
    numbers = [row[column] for row in ALLOWED.values()]
    if machine == "x86_64":
        lines += [(AT_LEAST, 0, 1, X32), (RETURN, 0, 0, KILL)]
        numbers += ALLOWED_X86.values()
    for number in numbers:
        lines += [(EQUAL, 0, 1, number), (RETURN, 0, 0, ALLOW)]
    for row, argument, values in DECIDED.values():
        block = _decide(argument, values)
        lines += [(EQUAL, 0, len(block), row[column]), *block]
    lines.append((RETURN, 0, 0, ABSENT))
    return b"".join(struct.pack("HBBI", *line) for line in lines)


def _decide(argument: int, values: tuple[int, ...]) -> list[tuple[int, int, int, int]]:
    """Allow where the 64-bit argument is one of `values`; both machines store its low half first."""
    low = ARGUMENTS + 8 * argument
    lines = [(LOAD, 0, 0, low + 4), (EQUAL, 1, 0, 0), (RETURN, 0, 0, ABSENT), (LOAD, 0, 0, low)]
    for value in values:
        lines += [(EQUAL, 0, 1, value), (RETURN, 0, 0, ALLOW)]
    return [*lines, (RETURN, 0, 0, ABSENT)]
