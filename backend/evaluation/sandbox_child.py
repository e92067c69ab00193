"""The child's side of the sandbox: lock yourself in, then run one answer. A script on the standard library alone.

Descriptor 0 brings the job, 1 is the file for what the answer's function returned, 2 reports on the locking. All three
are /dev/null before the answer starts. The expected values never come here: there is nothing to steal or to forge.
Imports are few because every run pays for them (`json` alone would add 6 ms).
"""

from __future__ import annotations

import ctypes
import marshal
import os
import resource
import struct
import sys
from collections.abc import Callable, Iterable, Iterator
from types import ModuleType

MIB = 1 << 20
MEMORY, FILE_SIZE, DESCRIPTORS = 1024 * MIB, MIB, 64
READY = b"ready"
LEAST_ABI = 4  # of Landlock: files since 1, TCP since 4; signals and abstract sockets (6) where offered
SET_PARENT_DEATH_SIGNAL, SET_SECCOMP, SET_NO_NEW_PRIVS = 1, 22, 38
CAPABILITY_VERSION = 0x20080522
CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
WRITE_FILE, READ_FILE, READ_DIR, REMOVE_FILE, MAKE_FILE, TRUNCATE = 1 << 1, 1 << 2, 1 << 3, 1 << 5, 1 << 8, 1 << 14


def lock(filter_program: bytes, seconds: int) -> None:
    """Give up, for good, all that an answer does not need. Cannot be undone, so only ever called in a child.

    Args:
        filter_program: from `seccomp.program`.
        seconds: processor time; a second net under the parent's clock.
    Raises:
        OSError: a wall could not be put up; the answer must then not be run.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    _kernel(libc.prctl, "die with the parent", SET_PARENT_DEATH_SIGNAL, 9)
    _limit(resource.RLIMIT_CPU, seconds)
    _limit(resource.RLIMIT_AS, MEMORY)
    _limit(resource.RLIMIT_FSIZE, FILE_SIZE)
    _limit(resource.RLIMIT_NOFILE, DESCRIPTORS)
    _limit(resource.RLIMIT_CORE, 0)
    header, nothing = _memory(struct.pack("Ii", CAPABILITY_VERSION, 0)), _memory(bytes(24))
    _kernel(libc.capset, "drop capabilities", ctypes.addressof(header), ctypes.addressof(nothing))
    _kernel(libc.prctl, "no new privileges", SET_NO_NEW_PRIVS, 1)
    _landlock(libc)
    program = _memory(filter_program)
    pointer = _memory(struct.pack("HxxxxxxQ", len(filter_program) // 8, ctypes.addressof(program)))
    _kernel(libc.prctl, "filter system calls", SET_SECCOMP, 2, ctypes.addressof(pointer))


def _memory(content: bytes) -> ctypes.Array[ctypes.c_char]:
    return ctypes.create_string_buffer(content, len(content))


def _limit(what: int, value: int) -> None:
    hard = resource.getrlimit(what)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(what, (value, value))


def _landlock(libc: ctypes.CDLL) -> None:
    """Read what the interpreter imports from, read and write the working folder (flat: no folders in it), no more."""
    try:
        abi = _kernel(libc.syscall, "", CREATE_RULESET, 0, 0, 1)
    except OSError as error:
        raise OSError(f"Landlock is missing or switched off in this kernel ({error.strerror})") from None
    if abi < LEAST_ABI:
        raise OSError(f"this kernel has Landlock ABI {abi}; {LEAST_ABI} is needed, Linux 6.7 or newer")
    every_access = (1 << (16 if abi >= 5 else 15)) - 1  # a right that is handled and not given is denied
    ruleset = struct.pack("QQQ", every_access, 0b11, 0b11)[: 24 if abi >= 6 else 16]
    place = _memory(ruleset)
    rules = _kernel(libc.syscall, "Landlock rules", CREATE_RULESET, ctypes.addressof(place), len(ruleset))
    # compiled modules (hashlib, decimal …) need the system's shared libraries and the loader's index of them
    libraries = (f"{sys.base_prefix}/lib", "/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache")
    reads = [(path, READ_FILE | READ_DIR) for path in {*sys.path, *libraries} if os.path.exists(path)]
    writes = WRITE_FILE | READ_FILE | READ_DIR | REMOVE_FILE | MAKE_FILE | TRUNCATE
    for path, access in [*reads, (".", writes)]:
        folder = os.open(path, os.O_PATH | os.O_CLOEXEC)
        place = _memory(struct.pack("=Qi", access if os.path.isdir(path) else access & ~READ_DIR, folder))
        _kernel(libc.syscall, f"Landlock rule for {path}", ADD_RULE, rules, 1, ctypes.addressof(place))
        os.close(folder)
    _kernel(libc.syscall, "Landlock", RESTRICT_SELF, rules)
    os.close(rules)


def _kernel(call: Callable[..., int], what: str, *arguments: int) -> int:
    """Call into libc with every number as a full register, and zero where the kernel wants the rest to be zero."""
    answer = call(*map(ctypes.c_long, (*arguments, *[0] * (6 - len(arguments)))))
    if answer < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return answer


def encode(value: object) -> str:
    """A returned value as JSON, a tag before each part, so that True, 1, (1,) and [1] stay different.

    >>> encode([True, 255, (None, "a")])
    '["list",["bool","True"],["int","0xff"],["tuple",["none"],["str","61"]]]'

    Raises:
        TypeError: a type that has no tag; the caller counts it as a wrong answer.
    """
    match value:
        case None:
            return '["none"]'
        case bool() | float() | complex():
            return f'["{_tag(value, bool, float, complex)}","{value!r}"]'
        case int():
            return f'["int","{value:#x}"]'  # hexadecimal: no limit on digits, read in linear time
        case str():
            return f'["str","{value.encode("utf-8", "surrogatepass").hex()}"]'
        case bytes():
            return f'["bytes","{value.hex()}"]'
        case list() | tuple():
            return _join(_tag(value, list, tuple), value)
        case set() | frozenset():
            return _join("set", value)
        case dict():
            return _join("dict", (part for pair in value.items() for part in pair))
    raise TypeError(f"returned a {type(value).__name__}, which cannot be compared")


def _tag(value: object, *kinds: type) -> str:
    return next(kind.__name__ for kind in kinds if isinstance(value, kind))


def _join(tag: str, parts: Iterable[object]) -> str:
    return f'["{",".join([tag + chr(34), *map(encode, parts)])}]'


def returned(source: str, entry_point: str, calls: list[list[object]]) -> Iterator[str]:
    """Run the answer; yield `["value", value, its repr]` for each call, or end with `["error", text]`."""
    module = ModuleType("answer")  # not __main__: what an answer keeps for that name is no part of its function
    sys.modules["answer"] = module
    try:
        exec(compile(source, "answer.py", "exec", dont_inherit=True), module.__dict__)
        function = getattr(module, entry_point)
        for arguments in calls:
            value = function(*arguments)
            yield f'["value",{encode(value)},{encode(_shown(value))}]'
    except BaseException as error:  # SystemExit too: leaving early is not passing
        yield f'["error",{encode(f"{type(error).__name__}: {error}"[:200])}]'


def _shown(value: object) -> str:
    try:
        return repr(value)[:80]
    except Exception:
        return f"a {type(value).__name__}"


def main() -> None:
    """Take the job, lock, report, run, hand back; nothing runs after that, exit handlers of the answer included."""
    with open(0, "rb", closefd=False) as file:
        source, entry_point, calls, filter_program, seconds = marshal.load(file)
    result, null = os.dup(1), os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.environ.clear()
    try:
        lock(filter_program, seconds)
    except OSError as error:
        os.write(2, (error.strerror or str(error)).encode())
        os._exit(1)
    os.write(2, READY)
    os.dup2(null, 2)
    os.close(null)
    text = f"[{','.join(returned(source, entry_point, calls))}]"
    if len(text) > FILE_SIZE:
        text = f'[["error",{encode("returned more than 1 MiB")}]]'
    os.write(result, text.encode())
    os._exit(0)


if __name__ == "__main__":
    main()
