"""Run code that a model wrote, and say whether it passes its cases. Knows processes and limits, not tasks or models.

Each answer gets a process of its own, behind walls that the kernel holds (`sandbox_child.py`, `seccomp.py`): it reads
the standard library, writes a temporary folder, and that is all. The expected values stay on this side: the child hands
back what the function *returned* and this side compares. So printing "passed", exiting 0 or patching `==` proves
nothing, and writing the child's reply by hand is no more than answering. There is no weaker mode: without Landlock and
seccomp nothing runs.

Not covered: whether a path exists, and its size and date, can still be asked of the kernel; and a bug in the kernel
itself.
"""

from __future__ import annotations

import functools
import json
import marshal
import math
import os
import platform
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from backend.errors import RunFailed
from backend.evaluation import seccomp
from backend.evaluation.sandbox_child import FILE_SIZE, READY

SECONDS_TO_LOCK = 20.0  # start-up and locking, before the answer's own time begins; generous for a loaded machine
SECONDS_BETWEEN_LOOKS = 0.05  # at the folder
MOST_FILES = 64
NUMBERS: dict[str, Callable[[str], complex]] = {
    "int": functools.partial(int, base=16),
    "float": float,
    "complex": complex,
}

Case = tuple[list[object], object]


@dataclass(frozen=True)
class CodeResult:
    """Whether every case passed; `reason` is empty then, otherwise it says which did not and why."""

    passed: bool
    reason: str


def run_tests(source: str, entry_point: str, cases: Sequence[Case], *, seconds: float = 2.0) -> CodeResult:
    """Define `source` in a locked process, call `entry_point(*arguments)` for each case and compare with `==`.

    Stricter than `==` in one way: True is not 1. All cases of an answer share one process; no two answers do.

    Args:
        source: untrusted Python.
        entry_point: name of the function to call.
        cases: (arguments, expected) pairs of None, bool, numbers, str, bytes, list, tuple, set and dict.
        seconds: wall clock for defining and all calls together; starting the process is not counted.
    Raises:
        RunFailed: this machine cannot lock a process in, or failed to this time. Never the answer's doing.
        ValueError: no cases, or arguments that cannot be handed over.
        TypeError: an expected value of another type. Both are mistakes in a task, not in an answer.
    """
    usable, why = available()
    if not usable:
        raise RunFailed(f"Code tasks are disabled on this machine: {why}. Leave them out; everything else runs.")
    return _run(source, entry_point, cases, seconds)


@functools.cache
def available() -> tuple[bool, str]:
    """Whether answers can be run safely here, tried once per process; otherwise why not."""
    if sys.platform != "linux":
        return False, f"the sandbox needs Linux, this is {platform.system()}"
    if platform.machine() not in seccomp.MACHINES:
        return False, f"no system-call filter for {platform.machine()}, only for {' and '.join(seccomp.MACHINES)}"
    with tempfile.NamedTemporaryFile() as outside:
        try:
            honest = _run("import math\ndef f(x): return math.isqrt(x)", "f", [([49], 7)], 10.0)
            hostile = _run(PROBE, "probe", [([outside.name], [])], 10.0)
        except (RunFailed, OSError) as error:
            return False, str(error)
    if not honest.passed:
        return False, f"a correct answer did not pass the self-test ({honest.reason})"
    if not hostile.passed:
        return False, f"the self-test got through a wall ({hostile.reason})"
    return True, ""


PROBE = """
import os, socket
def probe(outside):
    attempts = {
        "read a file": lambda: open(outside),
        "write a file": lambda: open(outside, "w"),
        "list a folder": lambda: os.listdir("/"),
        "change a mode": lambda: os.chmod(outside, 0o777),
        "open a socket": lambda: socket.socket(),
        "signal the parent": lambda: os.kill(os.getppid(), 0),
        "start a program": lambda: os.execv("/bin/true", ["true"]),
        "fork": lambda: os.fork() or os._exit(0),
    }
    through = []
    for name, attempt in attempts.items():
        try:
            attempt()
            through.append(name)
        except OSError:
            pass
    return through
"""


def _run(
    source: str, entry_point: str, cases: Sequence[Case], seconds: float, filter_program: bytes | None = None
) -> CodeResult:
    if not cases:
        raise ValueError(f"no cases for {entry_point}: any code would pass")
    filter_program = filter_program or seccomp.program(platform.machine())
    calls = [list(arguments) for arguments, _ in cases]
    job = marshal.dumps((source, entry_point, calls, filter_program, math.ceil(seconds) + 1))
    with (
        tempfile.TemporaryDirectory(prefix="answer-", ignore_cleanup_errors=True) as folder,
        open(os.memfd_create("job"), "w+b") as inbox,
        open(os.memfd_create("returned"), "w+b") as outbox,
    ):
        inbox.write(job)
        inbox.seek(0)
        stopped = _supervise(inbox.fileno(), outbox.fileno(), folder, seconds)
        return CodeResult(False, stopped) if stopped else _compare(os.pread(outbox.fileno(), FILE_SIZE, 0), cases)


def _supervise(inbox: int, outbox: int, folder: str, seconds: float) -> str:
    """Run one child to its end, at the latest after `seconds`; say what stopped it, nothing if it ended by itself."""
    # -I would ignore the fixed hash seed as well; -s -P and an environment of one variable isolate the same, and an
    # answer that depends on the order of a set then scores the same every time.
    command = [sys.executable, "-s", "-P", "-S", str(Path(__file__).with_name("sandbox_child.py"))]
    report, report_end = os.pipe()
    try:
        child = subprocess.Popen(
            command,
            stdin=inbox,
            stdout=outbox,
            stderr=report_end,
            cwd=folder,
            env={"PYTHONHASHSEED": "0"},
            start_new_session=True,
        )
    except BaseException:
        os.close(report)
        raise
    finally:
        os.close(report_end)
    try:
        _wait_until_locked(report)
        return _wait_for_end(child.pid, folder, seconds)
    finally:
        os.close(report)
        os.killpg(child.pid, signal.SIGKILL)  # its own group, and not yet waited for: the number is still its own
        child.wait()


def _wait_until_locked(report: int) -> None:
    """Read the child's report. It is written before the answer starts, so an answer cannot forge it."""
    deadline, text = time.monotonic() + SECONDS_TO_LOCK, b""
    while not text.endswith(READY) and _readable(report, deadline - time.monotonic()):
        part = os.read(report, 4096)
        if not part:
            break
        text += part
    if not text.endswith(READY):
        last = text.decode(errors="replace").strip().splitlines()[-1:]
        raise RunFailed(last[0] if last else "the sandbox did not start")


def _wait_for_end(pid: int, folder: str, seconds: float) -> str:
    deadline, ended = time.monotonic() + seconds, os.pidfd_open(pid)
    try:
        while (left := deadline - time.monotonic()) > 0:
            if _readable(ended, min(left, SECONDS_BETWEEN_LOOKS)):
                status = os.waitid(os.P_PIDFD, ended, os.WEXITED | os.WNOWAIT)
                return _cause(status) if status and status.si_code != os.CLD_EXITED else ""
            if len(os.listdir(folder)) > MOST_FILES:
                return f"wrote more than {MOST_FILES} files"
        return f"took longer than {seconds:g} s"
    finally:
        os.close(ended)


def _readable(descriptor: int, seconds: float) -> bool:
    poll = select.poll()  # unlike select(), at home with numbers above 1023
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(max(0, math.ceil(seconds * 1000))))


def _cause(status: os.waitid_result) -> str:
    return f"ended by {signal.Signals(status.si_status).name}"


def _compare(reply: bytes, cases: Sequence[Case]) -> CodeResult:
    """Judge what came back. `reply` is hostile: bounded in size, parsed as data, walked along the expected value."""
    try:
        lines = json.loads(reply)
    except (ValueError, RecursionError):
        lines = None
    if not isinstance(lines, list):
        return CodeResult(False, "ended without a result" if not reply else "returned nothing that can be read")
    for number, (_, expected) in enumerate(cases, start=1):
        where = f"case {number} of {len(cases)}"
        match lines[number - 1 : number]:
            case [["value", value, shown]]:
                if not same(expected, value):
                    return CodeResult(False, f"{where}: got {_text(shown)}, expected {repr(expected)[:80]}")
            case [["error", text]]:
                return CodeResult(False, f"{where}: {_text(text)}")
            case _:
                return CodeResult(False, f"{where}: no result")
    return CodeResult(True, "")


def _text(encoded: object) -> str:
    """Words from the child, fit to be shown: one line, printable, short."""
    match encoded:
        case ["str", str(digits)]:
            try:
                words = bytes.fromhex(digits[:1600]).decode("utf-8", "replace")
            except ValueError:
                return "?"
            return "".join(letter if letter.isprintable() else " " for letter in words)[:200]
    return "?"


def same(expected: object, encoded: object) -> bool:
    """Whether `encoded` (see `sandbox_child.encode`) is `expected`, by `==`, except that True is not 1.

    It walks along the expected value and never hashes the other one, so a reply full of colliding keys costs nothing.

    >>> same([1, (2.0, "a")], ["list", ["int", "0x1"], ["tuple", ["int", "0x2"], ["str", "61"]]])
    True
    >>> same(1, ["bool", "True"])
    False

    Raises:
        TypeError: `expected` is of a type that cannot be compared.
    """
    whole: list[object] = encoded if isinstance(encoded, list) and encoded else ["nothing"]
    tag, parts = whole[0], whole[1:]
    match expected:
        case None:
            return whole == ["none"]
        case bool():
            return whole == ["bool", str(expected)]
        case int() | float() | complex():
            return _same_number(expected, tag, parts)
        case str():
            return whole == ["str", expected.encode("utf-8", "surrogatepass").hex()]
        case bytes():
            return whole == ["bytes", expected.hex()]
        case list() | tuple():
            kind = "list" if isinstance(expected, list) else "tuple"
            return tag == kind and len(parts) == len(expected) and all(map(same, expected, parts))
        case set() | frozenset():
            found = all(any(same(want, got) for got in parts) for want in expected)
            return tag == "set" and len(parts) == len(expected) and found
        case dict():
            pairs = list(zip(parts[::2], parts[1::2], strict=False))
            found = all(any(same(k, got) and same(v, it) for got, it in pairs) for k, v in expected.items())
            return tag == "dict" and len(parts) == 2 * len(expected) and found
    raise TypeError(f"a case expects a {type(expected).__name__}, which cannot be compared")


def _same_number(expected: complex, tag: object, parts: list[object]) -> bool:
    match parts:
        case [str(text)] if isinstance(tag, str) and tag in NUMBERS:
            try:
                return bool(NUMBERS[tag](text) == expected)
            except (ValueError, OverflowError):
                return False
    return False
