"""R rows: a function that takes more than its share, or ends in an ugly way."""

from __future__ import annotations

import base64
import os
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.hostile.conftest import Arena
from tests.platforms import eventually

SHORT = {"timeout": 2}
ENDS_IN_TIME = 2 * 1.0
"""The promise is limit + 1 s; asserted at double the figure."""


def test_r1_a_fork_bomb_hits_the_pids_limit_and_dies_with_its_run(arena: Arena) -> None:
    code = """
    import os, time
    def main(args, context):
        forked = 0
        for _ in range(500):
            try:
                if os.fork() == 0:
                    time.sleep(600)
                    os._exit(0)
                forked += 1
            except OSError as error:
                return {"forked": forked, "error": type(error).__name__}
        return {"forked": forked}
    """
    outcome = arena.attack(code, pids=20)
    assert outcome.status == "Success", outcome
    assert outcome.output["error"] == "BlockingIOError"
    assert outcome.output["forked"] < 20


def test_r3_many_pipes_and_sockets_that_hold_little_are_no_memory_bomb(arena: Arena) -> None:
    code = """
    import fcntl, os, socket, time
    def main(args, context):
        held = [socket.socketpair() for _ in range(20)] + [os.pipe() for _ in range(80)]
        held[0][0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 100_000)
        time.sleep(0.3)
        return len(held)
    """
    assert arena.attack(code, memory=48).output == 100


def test_r1_an_endless_fork_bomb_ends_at_its_timeout(arena: Arena) -> None:
    code = """
    import os
    def main(args, context):
        while True:
            try:
                os.fork()
            except OSError:
                pass
    """
    outcome = arena.attack(code, pids=30, **SHORT)
    assert (outcome.status, outcome.reason) == ("Failure", "timeout"), outcome


def test_r2_threads_count_to_the_same_limit(arena: Arena) -> None:
    code = """
    import threading
    def main(args, context):
        stop = threading.Event()
        started = 0
        try:
            for _ in range(500):
                threading.Thread(target=stop.wait, daemon=True).start()
                started += 1
        except RuntimeError:
            return started
        return -1
    """
    outcome = arena.attack(code, pids=20)
    assert outcome.status == "Success", outcome
    assert 0 < outcome.output < 20


MEMORY_BOMBS = {
    "heap": "held = []\n        while True: held.append(bytearray(8 << 20))",
    "/dev/shm": "file = open('/dev/shm/x', 'wb')\n        while True: file.write(b'x' * (1 << 20)); file.flush()",
    "/tmp": "file = open('/tmp/x', 'wb')\n        while True: file.write(b'x' * (1 << 20)); file.flush()",
    "memfd": (
        "fds = []\n        while True:\n            fd = os.memfd_create('x'); fds.append(fd)\n"
        "            for _ in range(16): os.write(fd, b'x' * (1 << 20))"
    ),
    "pipes": (
        "held = []\n        import fcntl\n        while True:\n            ends = os.pipe(); held.append(ends)\n"
        "            fcntl.fcntl(ends[1], 1031, 1 << 20); os.set_blocking(ends[1], False); os.write(ends[1], b'x' * (1 << 20))"
    ),
    "sockets": (
        "held = []\n        while True:\n            a, b = socket.socketpair(); held.append((a, b)); a.setblocking(False)\n"
        "            try:\n                while True: a.send(b'x' * 65536)\n            except BlockingIOError: pass"
    ),
    "processes": (
        "held = []\n        while True:\n            try: child = os.fork()\n            except OSError: child = None\n"
        "            if child == 0 or child is None:\n"
        "                for _ in range(20): held.append(bytearray(8 << 20))\n                time.sleep(600)"
    ),
    "page tables": (
        "import mmap\n        held = []\n        while True:\n            m = mmap.mmap(-1, 1 << 30, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000)\n"
        "            held.append(m)\n            for at in range(0, 1 << 30, 2 << 20): m[at]"
    ),
}


HIDDEN_BOMBS = {
    "only root may look into it": "ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)\n                hoard()",
    "its first thread has ended": (
        "threading.Thread(target=hoard).start()\n                ctypes.CDLL(None).syscall(EXIT, 0)"
    ),
    "a program that cannot be read": "os.execv('/tmp/python', ['python', '-c', HOARD])",
}


@pytest.mark.parametrize("how", HIDDEN_BOMBS)
def test_r3_a_memory_bomb_that_hides_stops_at_its_limit(arena: Arena, how: str) -> None:
    code = f"""
    import ctypes, os, shutil, sys, threading, time
    EXIT = 60 if os.uname().machine == "x86_64" else 93
    HOARD = "import time; held = bytearray(50 << 20); held[::4096] = bytes(len(held[::4096])); time.sleep(600)"
    def hoard():
        exec(HOARD)
    def main(args, context):
        shutil.copy(os.path.realpath(sys.executable), "/tmp/python")
        os.chmod("/tmp/python", 0o111)
        for _ in range(8):
            if os.fork() == 0:
                {HIDDEN_BOMBS[how]}
        os.wait()
        raise RuntimeError("a child has ended")
    """
    outcome = arena.attack(code, memory=128, timeout=20)
    assert (outcome.status, outcome.reason) == ("Failure", "oom"), outcome


def available_mb() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable"):
            return int(line.split()[1]) // 1024
    raise AssertionError("no MemAvailable")


@pytest.mark.parametrize("bomb", MEMORY_BOMBS)
def test_r3_a_memory_bomb_stops_at_its_limit(arena: Arena, bomb: str) -> None:
    code = f"import os, socket, time\ndef main(args, context):\n    if True:\n        {MEMORY_BOMBS[bomb]}\n"
    before = available_mb()
    with arena.deployed(code, memory=128, timeout=20) as name:
        execution = arena.platform.start_run(name)
        lowest = before

        def ended() -> dict[str, Any] | None:
            nonlocal lowest
            lowest = min(lowest, available_mb())
            record = arena.platform.record(execution)
            return record if record["status"] in ("Success", "Failure") else None

        record = eventually(ended, 60, "the bomb ends")
        arena.healthy()
    assert record["status"] == "Failure", record
    if record["reason"] == "error":
        assert record["error"]["type"] in ("MemoryError", "OSError", "BlockingIOError", "PermissionError"), record
    else:
        # Page tables and pipes have walls of their own; a bomb that only stands there ends at its timeout.
        assert record["reason"] in ("oom", "timeout"), record
    assert before - lowest < 2 * 128 + 300, f"the host's memory fell by {before - lowest} MB"


def test_r5_tmp_has_a_size_and_an_inode_limit(arena: Arena) -> None:
    code = """
    import os
    def main(args, context):
        found = {}
        try:
            with open("/tmp/big", "wb") as file:
                for _ in range(1024):
                    file.write(b"x" * (1 << 20))
        except OSError as error:
            found["size"] = error.strerror
        os.unlink("/tmp/big")
        try:
            for number in range(1_000_000):
                open(f"/tmp/{number}", "w").close()
        except OSError as error:
            found["inodes"] = error.strerror
            found["made"] = number
        for number in range(found.get("made", 0)):
            os.unlink(f"/tmp/{number}")
        try:
            with open("/tmp/sparse", "wb") as file:
                file.truncate(1 << 40)
            found["sparse"] = "made"
        except OSError as error:
            found["sparse"] = error.strerror
        depth, path = 0, "/tmp"
        try:
            os.chdir("/tmp")
            for depth in range(5000):
                os.mkdir("d")
                os.chdir("d")
        except OSError:
            pass
        found["depth"] = depth
        return found
    """
    outcome = arena.attack(code, tmp=16, memory=256)
    assert outcome.status == "Success", outcome
    assert outcome.output["size"] in ("No space left on device", "File too large")
    assert outcome.output["inodes"] == "No space left on device"
    assert outcome.output["made"] < 100_000


@pytest.mark.parametrize("what", ["lines", "one line", "binary"])
def test_r6_endless_output_is_cut_with_a_mark(arena: Arena, what: str) -> None:
    write = {
        "lines": "sys.stdout.write('line of output\\n' * 70000)",
        "one line": "sys.stdout.write('x' * (1 << 20))",
        "binary": "sys.stdout.buffer.write(bytes(range(256)) * 4096); sys.stdout.buffer.flush()",
    }[what]
    code = f"import sys\ndef main(args, context):\n    for _ in range(200):\n        {write}\n    return 'done'\n"
    outcome = arena.attack(code, timeout=60)
    assert (outcome.status, outcome.output) == ("Success", "done"), outcome.record
    assert outcome.record["logs_truncated"] is True
    assert "log cut here" in outcome.log
    assert len(outcome.log.encode("utf-8", "surrogateescape")) < 4 * 1024 * 1024


ENDLESS = {
    "R7 busy loop": "while True: pass",
    "R8 holding the GIL": "import re; re.match(r'(a+)+$', 'a' * 64 + 'b')",
    "R8 huge power": "10 ** 10 ** 8",
    "R8 ignoring signals": (
        "import signal\n    for n in range(1, 32):\n        try: signal.signal(n, signal.SIG_IGN)\n"
        "        except (OSError, ValueError): pass\n    while True: pass"
    ),
    "R9 sleeping": "import time; time.sleep(600)",
    "R9 waiting for input": "import sys, os; os.read(os.pipe()[0], 1)",
}


@pytest.mark.parametrize("how", ENDLESS)
def test_r7_r8_r9_a_run_ends_at_its_timeout(arena: Arena, how: str) -> None:
    with arena.deployed(f"def main(args, context):\n    {ENDLESS[how]}\n", **SHORT) as name:
        begin = time.monotonic()
        answer = arena.platform.run(name)
        took = time.monotonic() - begin
        assert (answer.status, answer.json["error_code"]) == (504, "timeout"), answer
        outcome = arena.judge(answer)
    assert (outcome.status, outcome.reason) == ("Failure", "timeout"), outcome
    assert took < SHORT["timeout"] + ENDS_IN_TIME


def test_r10_a_result_is_taken_to_the_limit_and_not_a_byte_further(arena: Arena) -> None:
    """The limit is the run's memory, and what says that it is longer is not waited for."""
    code = (
        'import os\nDONE = b\'{"ok":true,"began":1,"finished":1,"cpu_ms":1,"max_memory_mb":1,"output":\'\n'
        "def main(args, context):\n    if 'n' in args:\n        return 'x' * args['n']\n"
        "    length = len(DONE) + args['size'] + 3\n    os.write(3, length.to_bytes(4, 'big') + DONE + b'\"')\n"
        "    for _ in range(args['size'] // 1048576):\n        os.write(3, b'x' * 1048576)\n    os.write(3, b'\"}')\n"
    )
    megabyte = 1024 * 1024
    with arena.deployed(code, memory=64) as name:
        inside = arena.platform.run(name, {"n": 8 * megabyte - 2})
        assert (inside.status, len(inside.text.strip())) == (200, 8 * megabyte)
        large = arena.platform.run(name, {"size": 60 * megabyte})
        assert (large.status, len(large.text)) == (200, 60 * megabyte + 2)
        over = arena.judge(arena.platform.run(name, {"size": 70 * megabyte}))
        assert (over.status, over.reason) == ("Failure", "limit"), str(over)[:500]


UNSERIALISABLE = {
    "NaN": ("float('nan')", "NaN"),
    "Infinity": ("[1, float('inf')]", "Infinity"),
    "bytes": ("{'a': b'x'}", "bytes"),
    "set": ("{1, 2}", "set"),
    "datetime": ("__import__('datetime').datetime(2020, 1, 1)", "datetime"),
    "key": ("{1: 'x'}", "int"),
    "tuple key": ("{(1, 2): 'x'}", "tuple"),
    "lone surrogate": ("'\\ud800'", "surrogate"),
    "huge int": ("10 ** 5000", "int"),
    "cycle": ("(lambda a: a.append(a) or a)([])", "ircular"),
    "class": ("object", "type"),
}


@pytest.mark.parametrize("kind", UNSERIALISABLE)
def test_r12_what_json_cannot_hold_is_unserialisable_and_named(arena: Arena, kind: str) -> None:
    expression, word = UNSERIALISABLE[kind]
    outcome = arena.attack(f"def main(args, context):\n    return {expression}\n")
    assert (outcome.status, outcome.reason) == ("Failure", "unserialisable"), outcome
    assert word in outcome.record["error"]["message"], outcome


def test_r12_what_json_can_hold_comes_back_as_it_was(arena: Arena) -> None:
    code = "def main(args, context):\n    return [None, True, 1.5, -0.0, 10 ** 30, 'é\\u2028', {'a': [(), (1, 2)]}, args]\n"
    outcome = arena.attack(code, {"x": "ü", "n": 12345678901234567890})
    assert outcome.output == [
        None, True, 1.5, -0.0, 10**30, "é\u2028", {"a": [[], [1, 2]]}, {"x": "ü", "n": 12345678901234567890},
    ]  # fmt: skip


ENDS = {
    "sys.exit(0)": ("import sys; sys.exit(0)", {"error"}, "SystemExit"),
    "sys.exit(1)": ("import sys; sys.exit(1)", {"error"}, "SystemExit"),
    "SystemExit": ("raise SystemExit('bye')", {"error"}, "SystemExit"),
    "KeyboardInterrupt": ("raise KeyboardInterrupt", {"error"}, "KeyboardInterrupt"),
    "BaseException": ("raise BaseException('odd')", {"error"}, "BaseException"),
    "GeneratorExit": ("raise GeneratorExit", {"error"}, "GeneratorExit"),
    "os._exit(0)": ("import os; os._exit(0)", {"error"}, ""),
    "os._exit(7)": ("import os; os._exit(7)", {"error"}, ""),
    "os.abort": ("import os; os.abort()", {"signal"}, ""),
    "segfault": ("import ctypes; ctypes.string_at(0)", {"signal"}, ""),
    "recursion": ("main(args, context)", {"error", "signal"}, ""),
}


@pytest.mark.parametrize("how", ENDS)
def test_r13_no_ugly_end_is_a_success(arena: Arena, how: str) -> None:
    statement, reasons, kind = ENDS[how]
    outcome = arena.attack(f"def main(args, context):\n    {statement}\n")
    assert outcome.status == "Failure", outcome
    assert outcome.reason in reasons, outcome
    if kind:
        assert outcome.record["error"]["type"] == kind, outcome


def test_r13_a_signal_to_itself_kills_the_run_or_has_no_effect(arena: Arena) -> None:
    outcome = arena.attack("import os\ndef main(args, context):\n    os.kill(os.getpid(), 9)\n    return 'went on'\n")
    assert (outcome.status, outcome.output) == ("Success", "went on") or outcome.reason == "signal", outcome


def test_r15_a_background_child_is_dead_when_the_run_has_ended(arena: Arena) -> None:
    code = """
    import os, time
    def main(args, context):
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                for fd in range(3):
                    os.close(fd)
                os.execv("/usr/bin/sleep", ["sleep-of-a-hostile-child", "987"])
            os._exit(0)
        time.sleep(0.2)
        return "returned"
    """

    def alive() -> list[str]:
        lines = [entry.read_bytes() for entry in Path("/proc").glob("[0-9]*/cmdline") if entry.exists()]
        return [line.decode() for line in lines if b"sleep-of-a-hostile-child" in line]

    outcome = arena.attack(code)
    assert (outcome.status, outcome.output) == ("Success", "returned"), outcome
    eventually(lambda: not alive(), 2, "the background child is dead")


LINGERING = {
    "atexit": "import atexit, time; atexit.register(time.sleep, 600)",
    "thread": "import threading, time; threading.Thread(target=time.sleep, args=(600,)).start()",
    "__del__": "args['held'] = type('X', (), {'__del__': lambda self: __import__('time').sleep(600)})()",
    "excepthook": "import sys, time; sys.excepthook = lambda *a: time.sleep(600)",
}


@pytest.mark.parametrize("how", LINGERING)
def test_r17_what_never_ends_after_main_is_killed(arena: Arena, how: str) -> None:
    begin = time.monotonic()
    outcome = arena.attack(f"def main(args, context):\n    {LINGERING[how]}\n    return 'returned'\n")
    assert (outcome.status, outcome.output) == ("Success", "returned"), outcome
    assert time.monotonic() - begin < 30


def test_r19_descriptors_run_out_for_the_function_alone(arena: Arena) -> None:
    code = """
    import os
    def main(args, context):
        held = []
        try:
            while len(held) < 100_000:
                held.append(os.open("/dev/null", os.O_RDONLY))
        except OSError as error:
            return error.errno
        return len(held)
    """
    assert arena.attack(code).output == 24


def test_r20_busy_sandboxes_leave_room_for_the_api_and_for_others(arena: Arena) -> None:
    codes = {
        str(number): "def main(args, context):\n    while True: pass\n" for number in range(3 * (os.cpu_count() or 1))
    }
    took = []
    with arena.deployed_all(codes, timeout=6) as names, ThreadPoolExecutor(len(codes)) as threads:
        runs = [threads.submit(arena.platform.run, name) for name in names.values()]
        eventually(lambda: len(arena.platform.call("GET", "executions/?status=Started").json) == len(codes), 20)
        for _ in range(20):
            began = time.monotonic()
            assert arena.platform.call("GET", "deployments/").status == 200
            arena.healthy()
            took.append(time.monotonic() - began)
        assert {arena.judge(run.result()).reason for run in runs} == {"timeout"}
    assert max(took) < 3, sorted(took)


@pytest.mark.parametrize("bomb", ["zlib", "xml"])
def test_r22_a_bomb_in_the_arguments_hurts_its_own_run_alone(arena: Arena, bomb: str) -> None:
    entities = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, 10))
    bombs = {
        "zlib": base64.b64encode(zlib.compress(bytes(400 << 20))).decode(),
        "xml": f'<!DOCTYPE x [<!ENTITY e0 "boom">{entities}]><x>&e9;</x>',
    }
    code = """
    import base64, xml.dom.minidom, zlib
    def main(args, context):
        if args["kind"] == "zlib":
            return len(zlib.decompress(base64.b64decode(args["bomb"])))
        return len(xml.dom.minidom.parseString(args["bomb"]).toxml())
    """
    outcome = arena.attack(code, {"kind": bomb, "bomb": bombs[bomb]}, memory=64, timeout=5)
    assert outcome.reason in ("oom", "timeout", "error"), outcome
    if outcome.reason == "error":  # the parser of newer interpreters refuses it by itself
        assert outcome.record["error"]["type"] in ("MemoryError", "xml.parsers.expat.ExpatError"), outcome


def test_r21_an_import_that_exits_or_hangs_is_the_runs_own_failure(arena: Arena) -> None:
    for statement, reasons in {
        "import sys; sys.exit(3)": {"error"},
        "import os; os._exit(0)": {"error"},
        "import time; time.sleep(600)": {"timeout"},
        "1/0": {"error"},
        "import ctypes; ctypes.string_at(0)": {"signal", "error"},
    }.items():
        outcome = arena.attack(f"{statement}\ndef main(args, context):\n    return 1\n", **SHORT)
        assert outcome.status == "Failure", (statement, outcome)
        assert outcome.reason in reasons, (statement, outcome)


def test_r23_what_main_changes_does_not_reach_the_next_run(arena: Arena) -> None:
    code = """
    import json, locale, os, signal, sys
    count = 0
    def main(args, context):
        global count
        count += 1
        mask = os.umask(0o777)
        seen = [count, os.getcwd(), mask, signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL, "planted" in sys.modules, hasattr(json, "evil")]
        os.chdir("/")
        signal.signal(signal.SIGUSR1, lambda *a: None)
        sys.modules["planted"] = json
        json.evil = 1
        json.dumps = None
        return seen
    """
    with arena.deployed(code) as name:
        outcomes = [arena.judge(arena.platform.run(name)) for _ in range(4)]
    assert all(outcome.status == "Success" for outcome in outcomes), outcomes
    assert len({str(outcome.output) for outcome in outcomes}) == 1, outcomes
    assert outcomes[0].output[0] == 1
