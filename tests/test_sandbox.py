"""The attempt table of generated code, each row tried for real, and honest answers beside it."""

from __future__ import annotations

import errno
import os
import platform
import re
import select
import struct
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from backend.errors import RunFailed
from backend.evaluation import sandbox, seccomp
from backend.evaluation.sandbox import CodeResult, available, run_tests, same

REPOSITORY = Path(__file__).parents[1]
DENIED = r"PermissionError|\[Errno 38\] Function not implemented|can't start new thread"
PATIENCE = 30.0  # seconds for an answer that ends by itself; only a hang takes so long
ALLOW_ALL = struct.pack("HBBI", seccomp.RETURN, 0, 0, seccomp.ALLOW)

locked = pytest.mark.skipif(not available()[0], reason=f"no sandbox here: {available()[1]}")


def attempt(body: str, *arguments: object, seconds: float = PATIENCE) -> CodeResult:
    """Run `body` as a function of `a`, `b` …; it passes only if it comes to its end, so denied means failed."""
    names = "abcd"[: len(arguments)]
    source = f"import os\ndef f({', '.join(names)}):\n{textwrap.indent(body, '    ')}\n    return 'through'\n"
    return run_tests(source, "f", [(list(arguments), "through")], seconds=seconds)


def answer(source: str, *cases: tuple[list[object], object]) -> CodeResult:
    return run_tests(textwrap.dedent(source), "f", cases, seconds=PATIENCE)


def value(expression: str) -> str:
    """What an expression is worth in there, as the reason shows it."""
    result = run_tests(f"import os, ctypes\ndef f(): return {expression}", "f", [([], "\0")], seconds=PATIENCE)
    return result.reason.removeprefix("case 1 of 1: got ").removesuffix(", expected '\\x00'")


@locked
class TestHonestAnswers:
    def test_a_correct_answer_passes_and_a_wrong_one_says_which_case(self) -> None:
        assert run_tests("def f(x): return x + 1", "f", [([1], 2), ([2], 3)], seconds=PATIENCE) == CodeResult(True, "")
        wrong = run_tests("def f(x): return 2 * x", "f", [([1], 2), ([2], 5)], seconds=PATIENCE)
        assert wrong == CodeResult(False, "case 2 of 2: got 4, expected 5")

    @pytest.mark.parametrize(
        "thing",
        [
            *(None, True, 0, -7, 2**20000, 1.5, -0.0, float("inf"), 1e300, 2 + 3j),
            *("", 'ä"\\\n\0\ud800', b"\xff", [], [[1], (2,)], (), {1, 2, 3}, frozenset((1, 2))),
            *({}, {"a": [1, {2: (3,)}], (1, "x"): None}),
        ],
        ids=lambda thing: repr(thing)[:20] if not isinstance(thing, int) else f"{type(thing).__name__}{thing % 97}",
    )
    def test_every_kind_of_value_goes_in_and_comes_back(self, thing: object) -> None:
        assert answer("def f(x): return x", ([thing], thing)).passed

    @pytest.mark.parametrize(
        ("returned", "expected"),
        [
            ("True", 1),
            ("1", True),
            ("0", False),
            ("[True]", [1]),
            ("(1, 2)", [1, 2]),
            ("{1: True}", {1: 1}),
            ("'1'", 1),
            ("None", False),
            ("{1, 2}", {1, 2, 3}),
            ("float('nan')", float("nan")),
            ("object()", None),
        ],
    )
    def test_what_only_looks_alike_does_not_pass(self, returned: str, expected: object) -> None:
        assert not answer(f"def f(): return {returned}", ([], expected)).passed

    def test_equal_numbers_and_counters_pass(self) -> None:
        source = "from collections import Counter\ndef f(x): return 1.0 if x else Counter('aab')"
        assert answer(source, ([1], 1), ([0], {"a": 2, "b": 1})).passed

    def test_the_standard_library_is_there(self) -> None:
        source = """
            import bisect, collections, copy, dataclasses, datetime, decimal, fractions, functools, hashlib, heapq
            import itertools, json, math, random, re, statistics, string, tempfile, typing, zlib
            @dataclasses.dataclass
            class Point:
                x: "int"
            def f():
                with tempfile.TemporaryFile(dir=".") as file, open("note", "w") as note:
                    file.write(b"a")
                    note.write("b")
                os.remove("note")
                return [Point(2).x, hashlib.sha256(b"").hexdigest()[:4], json.loads("[1]")]
            import os
        """
        assert answer(source, ([], [2, "e3b0", [1]])) == CodeResult(True, "")

    @pytest.mark.parametrize(
        ("source", "reason"),
        [
            ("def f(:", "SyntaxError"),
            ("def g(): pass", "no attribute 'f'"),
            ("def f(): return 1 / 0", "case 1 of 1: ZeroDivisionError: division by zero"),
            ("def f(): return f()", "RecursionError"),
            ("def f():\n x = []\n x.append(x)\n return x", "RecursionError"),
            ("def f(): return object()", "returned a object, which cannot be compared"),
            ("def f(): raise Exception('two\\nlines \\x1b[31m')", "Exception: two lines  [31m"),
            ("def f(): return '\ud800'", ""),
            ("\0", ""),
        ],
    )
    def test_a_broken_answer_fails_with_its_error(self, source: str, reason: str) -> None:
        result = run_tests(source, "f", [([], 1)], seconds=PATIENCE)
        assert not result.passed
        assert reason in result.reason
        assert result.reason.isprintable()

    def test_the_order_of_a_set_is_the_same_in_every_run(self) -> None:
        assert value("list({'red', 'green', 'blue', 'black'})") == value("list({'red', 'green', 'blue', 'black'})")

    def test_no_cases_is_a_mistake_of_the_task(self) -> None:
        with pytest.raises(ValueError, match="any code would pass"):
            run_tests("def f(): pass", "f", [])


@locked
class TestPretending:
    """There is no pass mark to print: the expected value is on the other side."""

    @pytest.mark.parametrize(
        "body",
        [
            "print('passed'); print('OK'); return None",
            "raise SystemExit(0)",
            "os._exit(0)",
            "import sys; sys.exit()",
            "class Same:\n    def __eq__(self, other): return True\nreturn Same()",
            "class Same(int):\n    def __eq__(self, other): return True\nreturn Same(3)",
            "import builtins, json; builtins.all = json.loads = lambda *x: True; return 3",
            'os.write(3, b\'[["value",["int","0x0"],["str",""]]]\'); os._exit(0)',
            "os.write(3, b'true'); os._exit(0)",
            "os.write(3, b'[' * 100000); os._exit(0)",
            "os.write(3, b'[[\"value\"]]'); os._exit(0)",
            "os.write(3, b'\\xff' * (1 << 20)); os._exit(0)",
            "os.write(2, b'ready'); os.close(3)",
        ],
    )
    def test_pretending_to_pass_does_not(self, body: str) -> None:
        result = answer(f"import os\ndef f():\n{textwrap.indent(body, '    ')}", ([], 7), ([], 7))
        assert not result.passed
        assert result.reason

    def test_nothing_over_there_knows_the_expected_value(self) -> None:
        source = """
            import gc, sys
            def f():
                frame, seen = sys._getframe(), [repr(gc.get_objects())]
                while frame:
                    seen.append(repr(frame.f_locals))
                    frame = frame.f_back
                return str(pow(7, 15)) in "".join(seen)
        """
        assert answer(source, ([], 7**15)).reason.startswith("case 1 of 1: got False")

    def test_two_answers_share_nothing(self) -> None:
        first = answer("import math\ndef f():\n open('left', 'w').close(); math.pi = 3; return 1", ([], 1))
        second = answer("import math, os\ndef f(): return [math.pi > 3, os.listdir()]", ([], [True, []]))
        assert first.passed
        assert second.passed


@locked
class TestReachingOut:
    @pytest.mark.parametrize(
        "body",
        [
            "open('/etc/passwd')",
            "open('/proc/self/environ')",
            "open(f'/proc/{os.getppid()}/mem', 'rb')",
            "os.listdir('/')",
            "os.listdir('/proc/self/fd')",
            "open(a)",
            "open(a, 'w')",
            "open(a + '.new', 'w')",
            "open('../new', 'w')",
            "open(os.__file__, 'a')",
            "os.remove(a)",
            "os.rename(a, 'mine')",
            "os.link(a, 'mine')",
            "os.symlink(a, 'mine')",
            "os.truncate(a, 0)",
            "os.chmod(a, 0o777)",
            "os.chown(a, 1, 1)",
            "os.utime(a, (0, 0))",
            "os.setxattr(a, 'user.x', b'1')",
            "os.mkdir('folder')",
            "os.mkfifo('pipe')",
            "os.mknod('node')",
        ],
    )
    def test_files_outside_are_out_of_reach(self, body: str, tmp_path: Path) -> None:
        secret = tmp_path / "secret"
        secret.write_text("secret")
        before = secret.stat()
        result = attempt(body, str(secret))
        assert not result.passed
        assert re.search(DENIED, result.reason), result.reason
        assert secret.read_text() == "secret"
        assert (secret.stat().st_mode, secret.stat().st_mtime_ns) == (before.st_mode, before.st_mtime_ns)
        assert [path.name for path in tmp_path.iterdir()] == ["secret"]

    @pytest.mark.parametrize("family", ["AF_INET", "AF_INET6", "AF_UNIX", "AF_NETLINK", "AF_VSOCK", "AF_ALG"])
    def test_there_are_no_sockets(self, family: str) -> None:
        source = f"""
            import socket
            def f():
                through = []
                for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW, socket.SOCK_SEQPACKET):
                    try:
                        through.append(repr(socket.socket(socket.{family}, kind)))
                    except OSError as error:
                        assert error.errno == {errno.ENOSYS}, error
                return through
        """
        assert answer(source, ([], [])) == CodeResult(True, "")

    @pytest.mark.parametrize(
        "body",
        [
            "import socket; socket.socketpair()",
            "os.fork()",
            "os.forkpty()",
            "while True: os.fork()",
            "os.execv('/bin/sh', ['sh', '-c', 'true'])",
            "os.posix_spawn('/bin/true', ['true'], {})",
            "import subprocess; subprocess.run(['/bin/sh', '-c', 'true'])",
            "import subprocess; subprocess.run('true', shell=True, close_fds=False)",
            "import multiprocessing as m; m.Process(target=print).start()",
            "import threading; threading.Thread(target=print).start()",
            "os.kill(os.getppid(), 0)",
            "os.kill(-1, 0)",
            "os.killpg(0, 0)",
            "import signal; signal.pidfd_send_signal(os.pidfd_open(os.getppid()), 0)",
            "import resource as r; r.prlimit(os.getppid(), r.RLIMIT_CORE, (0, 0))",
            "import resource as r; r.setrlimit(r.RLIMIT_AS, (-1, -1))",
            "import fcntl; fcntl.fcntl(3, fcntl.F_SETOWN, os.getppid())",
            "os.setpriority(os.PRIO_PROCESS, os.getppid(), 19)",
            "os.sched_setaffinity(os.getppid(), {0})",
            "os.setuid(0)",
            "os.chroot('.')",
            "os.memfd_create('hidden')",
        ],
    )
    def test_no_other_process_is_made_or_touched(self, body: str) -> None:
        result = attempt(body)
        assert not result.passed
        assert re.search(DENIED, result.reason), result.reason

    def test_a_shell_command_does_not_run(self, tmp_path: Path) -> None:
        attempt("os.system(f'touch {a}')", str(tmp_path / "made"))
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize(
        ("name", "numbers"),
        [
            ("ptrace", (101, 117)),
            ("process_vm_readv", (310, 270)),
            ("io_uring_setup", (425, 425)),
            ("clone3", (435, 435)),
            ("bpf", (321, 280)),
            ("unshare", (272, 97)),
            ("mount", (165, 40)),
            ("shmget", (29, 194)),
            ("keyctl", (250, 219)),
            ("userfaultfd", (323, 282)),
            ("a call not yet invented", (9999, 9999)),
        ],
    )
    def test_a_call_that_is_not_listed_does_not_exist(self, name: str, numbers: tuple[int, int]) -> None:
        number = numbers[seccomp.MACHINES[platform.machine()].column]
        libc = "ctypes.CDLL(None, use_errno=True)"
        assert value(f"[{libc}.syscall({number}, 0, 0, 0), ctypes.get_errno()]") == f"[-1, {errno.ENOSYS}]"

    @pytest.mark.skipif(platform.machine() != "x86_64", reason="x86-64 only")
    def test_the_x32_and_the_32_bit_doors_kill(self) -> None:
        assert attempt("import ctypes; ctypes.CDLL(None).syscall(0x40000000 + 39)").reason == "ended by SIGSYS"
        body = """
            import ctypes, mmap
            page = mmap.mmap(-1, 4096, prot=7)
            page.write(bytes.fromhex("b814000000cd80c3"))  # mov eax, getpid of i386; int 0x80; ret
            ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))()
        """
        assert attempt(textwrap.dedent(body)).reason in ("ended by SIGSYS", "ended by SIGSEGV")

    def test_it_inherits_no_environment_and_no_descriptors(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SECRET_TOKEN", "hunter2")
        inherited = os.open("/etc/passwd", os.O_RDONLY)
        os.set_inheritable(inherited, True)
        try:
            assert value("dict(os.environ)") == "{}"
            assert value("ctypes.CDLL(None).getenv(b'SECRET_TOKEN')") == "0"
            source = """
                import os
                def f():
                    found = []
                    for number in range(64):
                        try:
                            found.append((number, os.fstat(number).st_size))
                        except OSError:
                            pass
                    return found
            """
            assert answer(source, ([], [(0, 0), (1, 0), (2, 0), (3, 0)])) == CodeResult(True, "")
        finally:
            os.close(inherited)

    @pytest.mark.parametrize(
        "body",
        [
            "import socket\ns = socket.socket()\ns.connect(('127.0.0.1', 9))",
            "import socket\ns = socket.socket()\ns.bind(('127.0.0.1', 0))",
            "open('/etc/passwd')",
            "open('/proc/self/environ')",
            "open('../new', 'w')",
            "os.execv('/bin/true', ['true'])",
            "os.chroot('.')",
        ],
    )
    def test_landlock_and_the_lost_capabilities_hold_without_the_filter(self, body: str) -> None:
        source = f"import os\ndef f():\n{textwrap.indent(body, '    ')}\n    return 'through'\n"
        result = sandbox._run(source, "f", [([], "through")], PATIENCE, ALLOW_ALL)
        assert "PermissionError" in result.reason


@locked
class TestUsingUp:
    @pytest.mark.parametrize(
        ("body", "reason"),
        [
            ("x = bytearray(2 << 30)", "MemoryError"),
            ("x = []\nwhile True: x.append(bytes(1 << 20))", "MemoryError"),
            ("with open('large', 'wb') as file: file.write(bytes(2 << 20))", "File too large"),
            ("kept = [open(str(i), 'w') for i in range(100)]", "Too many open files"),
            ("return 'x' * (2 << 20)", "returned more than 1 MiB"),
            ("return 1 << 10_000_000", "returned more than 1 MiB"),
            ("import ctypes; ctypes.string_at(0)", "ended by SIGSEGV"),
        ],
    )
    def test_a_limit_ends_it(self, body: str, reason: str) -> None:
        assert reason in attempt(body).reason

    @pytest.mark.parametrize(
        "body",
        [
            "while True: pass",
            "import time; time.sleep(60)",
            "input_, output = os.pipe(); os.read(input_, 1)",
            "import signal\nfor s in (2, 15, 24): signal.signal(s, signal.SIG_IGN)\nwhile True: pass",
            "while True:\n    try:\n        while True: pass\n    except BaseException: pass",
            "while True: print('x' * 1_000_000)",
            "while True: os.write(2, b'x' * 1_000_000)",
        ],
    )
    def test_time_ends_it(self, body: str) -> None:
        assert attempt(body, seconds=0.2).reason == "took longer than 0.2 s"

    def test_many_files_end_it_and_are_removed(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        body = "i = 0\nwhile True:\n    open(str(i), 'w').close()\n    i += 1"
        assert attempt(body).reason == "wrote more than 64 files"
        assert not list(tmp_path.iterdir())

    def test_the_folder_is_gone_afterwards(self) -> None:
        folder = Path(value("(open('left', 'w').close(), os.getcwd())[1]").strip("'"))
        assert folder.name.startswith("answer-")
        assert not folder.exists()

    def test_nothing_of_it_is_left_open_here(self) -> None:
        before = os.listdir("/proc/self/fd")
        attempt("os._exit(3)")
        attempt("while True: pass", seconds=0.05)
        assert os.listdir("/proc/self/fd") == before

    def test_a_reply_of_colliding_keys_costs_nothing_here(self) -> None:
        source = "def f(): return {i * (2**61 - 1): 0 for i in range(1, 3000)}"
        assert not answer(source, ([], {1: 0})).passed

    def test_it_dies_when_the_worker_is_killed(self, tmp_path: Path) -> None:
        script = """
            from backend.evaluation import sandbox
            wait = sandbox._wait_for_end
            def announced(pid, *rest):
                print(pid, flush=True)
                return wait(pid, *rest)
            sandbox.available()
            sandbox._wait_for_end = announced
            sandbox.run_tests("while True: pass", "f", [([], 1)], seconds=60)
        """
        command = [sys.executable, "-c", textwrap.dedent(script)]
        environment = {**os.environ, "TMPDIR": str(tmp_path)}  # nobody is left to remove the folder
        with subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdout=subprocess.PIPE) as worker:
            assert worker.stdout
            answering = os.pidfd_open(int(worker.stdout.readline()))
            worker.kill()
        try:
            assert select.select([answering], [], [], 10)[0]
        finally:
            os.close(answering)


class TestWhereItCannotRun:
    def test_without_landlock_code_tasks_are_refused_and_say_why(self) -> None:
        # a filter that hides Landlock stands in for a kernel without it
        script = """
            import struct
            from backend.errors import RunFailed
            from backend.evaluation import sandbox, sandbox_child as child
            libc = child.ctypes.CDLL(None)
            lines = [(0x20, 0, 0, 0), (0x15, 0, 1, 444), (6, 0, 0, 0x50000 | 38), (6, 0, 0, 0x7fff0000)]
            program = child._memory(b"".join(struct.pack("HBBI", *line) for line in lines))
            pointer = child._memory(struct.pack("HxxxxxxQ", len(lines), child.ctypes.addressof(program)))
            child._kernel(libc.prctl, "no new privileges", 38, 1)
            child._kernel(libc.prctl, "filter", 22, 2, child.ctypes.addressof(pointer))
            print(sandbox.available()[0])
            try:
                sandbox.run_tests("def f(): return 1", "f", [([], 1)])
            except RunFailed as error:
                print(error)
        """
        command = [sys.executable, "-c", textwrap.dedent(script)]
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
        usable, sentence = done.stdout.splitlines()
        assert usable == "False"
        assert sentence.startswith("Code tasks are disabled on this machine: Landlock is missing or switched off")

    @locked
    def test_a_wall_that_cannot_be_put_up_is_no_failed_answer(self) -> None:
        with pytest.raises(RunFailed, match="filter system calls: Invalid argument"):
            sandbox._run("def f(): return 1", "f", [([], 1)], 2.0, b"12345678")

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
    @locked
    def test_an_ordinary_user_is_locked_in_as_well(self) -> None:
        script = """
            from backend.evaluation import sandbox
            print(sandbox.available()[0], sandbox.run_tests("def f(): return open('/etc/passwd')", "f", [([], 1)]))
        """
        for python in (sys.executable, "/usr/local/bin/python3", "/usr/bin/python3"):
            command = [python, "-B", "-c", textwrap.dedent(script)]
            try:
                done = subprocess.run(
                    command, cwd=REPOSITORY, user=65534, group=65534, extra_groups=[], capture_output=True, text=True
                )
            except OSError:
                continue
            if done.returncode == 0:
                assert done.stdout.startswith('True CodeResult(passed=False, reason="case 1 of 1: PermissionError')
                return
        pytest.skip("no interpreter that an ordinary user can start")


def judge(program: bytes, audit: int, number: int, *arguments: int) -> int:
    """What the kernel would decide, so that the other architecture's filter is tried as well."""
    record = struct.pack("<iIQ6Q", number, audit, 0, *(*arguments, 0, 0, 0, 0, 0, 0)[:6])
    lines, at, register = list(struct.iter_unpack("<HBBI", program)), 0, 0
    while True:
        code, yes, no, operand = lines[at]
        at += 1
        if code == seccomp.LOAD:
            register = int(struct.unpack_from("<I", record, operand)[0])
        elif code == seccomp.RETURN:
            return int(operand)
        else:
            true = register == operand if code == seccomp.EQUAL else register >= operand
            at += yes if true else no


@pytest.mark.parametrize("machine", seccomp.MACHINES)
class TestFilter:
    def test_what_is_listed_is_allowed_and_a_foreign_architecture_killed(self, machine: str) -> None:
        program, (audit, column) = seccomp.program(machine), seccomp.MACHINES[machine]
        for row in seccomp.ALLOWED.values():
            assert judge(program, audit, row[column]) == seccomp.ALLOW
            assert judge(program, 0x40000003, row[column]) == seccomp.KILL
        x32 = judge(program, audit, 0x40000000)
        assert x32 == (seccomp.KILL if machine == "x86_64" else seccomp.ABSENT)

    @pytest.mark.parametrize(
        ("name", "numbers"),
        [
            ("socket", (41, 198)),
            ("socketpair", (53, 199)),
            ("clone", (56, 220)),
            ("execve", (59, 221)),
            ("execveat", (322, 281)),
            ("kill", (62, 129)),
            ("tgkill", (234, 131)),
            ("ptrace", (101, 117)),
            ("fchmodat", (268, 53)),
            ("fchownat", (260, 54)),
            ("utimensat", (280, 88)),
            ("setrlimit", (160, 164)),
            ("prctl", (157, 167)),
            ("clone3", (435, 435)),
            ("io_uring_setup", (425, 425)),
        ],
    )
    def test_what_is_not_listed_is_absent(self, machine: str, name: str, numbers: tuple[int, int]) -> None:
        audit, column = seccomp.MACHINES[machine]
        assert judge(seccomp.program(machine), audit, numbers[column]) == seccomp.ABSENT

    def test_an_argument_decides_in_all_its_bits(self, machine: str) -> None:
        program, (audit, column) = seccomp.program(machine), seccomp.MACHINES[machine]
        numbers = {name: row[0][column] for name, row in seccomp.DECIDED.items()}
        assert judge(program, audit, numbers["fcntl"], 3, 1) == seccomp.ALLOW
        assert judge(program, audit, numbers["fcntl"], 3, 8) == seccomp.ABSENT  # F_SETOWN
        assert judge(program, audit, numbers["fcntl"], 3, 1 | 1 << 32) == seccomp.ABSENT
        assert judge(program, audit, numbers["prlimit64"], 0, 7, 0) == seccomp.ALLOW
        assert judge(program, audit, numbers["prlimit64"], 0, 7, 1 << 32) == seccomp.ABSENT
        assert judge(program, audit, numbers["ioctl"], 0, 0x5412) == seccomp.ABSENT  # TIOCSTI


def test_a_reply_is_walked_along_what_is_expected() -> None:
    for reply in (None, [], [[]], "int", ["int"], ["int", 3], ["int", "x"], ["list"], [["int"], "0x1"], {"int": "0x1"}):
        assert not same(1, reply)
        assert not same([1], reply)
        assert not same({1: 1}, reply)
        assert not same("a", reply)
    with pytest.raises(TypeError, match="a case expects a object"):
        same(object(), ["none"])
