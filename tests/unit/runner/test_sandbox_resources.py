"""Rows R of the hostile list at the runner's level: what a function takes, and how each kind of end is told."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest

from tests.unit.runner.sandboxes import GRADES, Stage

MEGABYTE = 2**20


@pytest.fixture(scope="module", params=GRADES)
def stage(request: pytest.FixtureRequest) -> Iterator[Stage]:
    stage = Stage(request.param)
    yield stage
    stage.close()


def after(stage: Stage) -> None:
    """The next innocent run is well."""
    assert stage.output("def main(args, context):\n    return 1") == 1


def test_r1_a_fork_bomb_meets_its_limit_and_dies_with_its_run(stage: Stage) -> None:
    code = """
    import os, time
    def main(args, context):
        made = 0
        try:
            for _ in range(500):
                if os.fork() == 0:
                    while True:
                        time.sleep(60)
                made += 1
        except BlockingIOError:
            return made
    """
    answer = stage.runs(code, limits={"pids": 20})
    assert 10 <= json.loads(answer["outcomes"][0]["output"]) <= 20
    assert answer["settled"], "they must be dead"
    after(stage)


def test_r2_so_does_a_thread_bomb(stage: Stage) -> None:
    code = """
    import threading, time
    def main(args, context):
        made = 0
        try:
            for _ in range(500):
                threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
                made += 1
        except (RuntimeError, MemoryError):
            return made
    """
    assert 10 <= stage.output(code, limits={"pids": 20}) <= 20


@pytest.mark.parametrize(
    "take",
    [
        "kept = [bytearray(10 * 2**20) for _ in range(100)]",
        "import mmap; kept = mmap.mmap(-1, 2**30); [kept.write(bytes(2**20)) for _ in range(1024)]",
        "kept = open('/dev/shm/x', 'wb'); [kept.write(bytes(2**20)) for _ in range(1024)]",
        "kept = os.memfd_create('x'); [os.write(kept, bytes(2**20)) for _ in range(1024)]",
    ],
    ids=["heap", "shared mapping", "shm", "memfd"],
)
def test_r3_a_memory_bomb_ends_as_one(stage: Stage, take: str) -> None:
    code = f"import os, time\ndef main(args, context):\n    {take}\n    time.sleep(5)\n    return 'survived'"
    outcome = stage.run(code, limits={"memory": 96, "tmp": 32})
    small_wall = outcome["reason"] == "error" and outcome["error"]["type"] in ("MemoryError", "OSError")
    assert outcome["reason"] == "oom" or small_wall, outcome
    after(stage)


def test_r3_a_memory_bomb_that_never_stops_talking_is_seen_as_well(stage: Stage) -> None:
    code = """
    import os, threading, time
    def talk():
        while True:
            os.write(1, b".")
            time.sleep(0.003)
    def main(args, context):
        threading.Thread(target=talk, daemon=True).start()
        with open("/dev/shm/x", "wb") as file:
            for _ in range(160):
                file.write(bytes(2**20))
        time.sleep(3)
        return "survived"
    """
    assert stage.run(code, limits={"memory": 96, "tmp": 256})["reason"] == "oom"


def test_r6_a_flood_on_the_result_channel_is_not_kept(stage: Stage) -> None:
    code = """
    import os
    def main(args, context):
        os.write(3, bytes(4))
        for _ in range(300):
            os.write(3, bytes(2**20))
    """
    assert stage.run(code)["reason"] == "unserialisable"
    test_r6_the_driver_of_a_run_stays_small(stage)


def test_r5_tmp_has_a_size_and_a_number_of_files(stage: Stage) -> None:
    code = """
    import errno, os
    def fill():
        with open("/tmp/big", "wb") as file:
            while True:
                file.write(bytes(2**20))
    def many():
        for number in range(10**6):
            os.close(os.open("/tmp/%d" % number, os.O_CREAT))
    def sparse():
        with open("/dev/shm/sparse", "wb") as file:
            file.truncate(2**40)
    def main(args, context):
        seen = []
        for what in (fill, many, sparse):
            try:
                what()
            except OSError as error:
                seen.append(errno.errorcode[error.errno])
        return seen
    """
    assert stage.output(code, limits={"tmp": 16}) == ["ENOSPC", "ENOSPC", "EFBIG"]


def test_r6_endless_output_is_cut_with_a_mark(stage: Stage) -> None:
    code = (
        "import os\ndef main(args, context):\n    for _ in range(600):\n        os.write(1, b'x' * 2**20)\n    return 1"
    )
    outcome = stage.run(code, log_limit=1000)
    assert outcome["status"] == "Success"
    assert outcome["log"].startswith("x" * 1000 + "\n[faaspot: log cut here, ")
    assert f"{600 * MEGABYTE - 1000} more bytes" in outcome["log"]
    assert outcome["logs_truncated"] is True


def test_r6_the_driver_of_a_run_stays_small(stage: Stage) -> None:
    """600 MB went through it before: its own memory did not."""
    with open(f"/proc/{stage.process.pid}/status") as file:
        peak = next(int(line.split()[1]) for line in file if line.startswith("VmHWM"))
    assert peak < 200 * 1024


def test_r6_bytes_that_are_no_text_are_shown_as_such(stage: Stage) -> None:
    code = """
    import os, sys
    def main(args, context):
        os.write(1, b"nul \\0 bad \\xff ansi \\x1b[31m ")
        print("\\ud800 lone")
        print("err", file=sys.stderr)
    """
    assert stage.run(code)["log"] == "nul \ufffd bad \ufffd ansi \x1b[31m \\ud800 lone\nerr\n"


def test_what_is_printed_keeps_its_order_over_both_streams_and_children(stage: Stage) -> None:
    code = """
    import subprocess, sys
    def main(args, context):
        print("a", end=" ")
        print("b", end=" ", file=sys.stderr)
        sys.stdout.buffer.write(b"c ")
        print("d")
        subprocess.run("echo e; echo f >&2", shell=True)
        print("g", end="")
    """
    assert stage.run(code)["log"] == "a b c d\ne\nf\ng"


@pytest.mark.parametrize(
    "spin",
    ["while True: pass", "10**10**8", "import re; re.match('(a+)+$', 'a' * 64 + 'b')", "import time; time.sleep(60)"],
    ids=["loop", "C loop", "regex", "sleep"],
)
def test_r7_r8_r9_the_deadline_ends_everything(stage: Stage, spin: str) -> None:
    code = f"""
    import signal
    def main(args, context):
        for number in (signal.SIGTERM, signal.SIGALRM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        {spin}
    """
    answer = stage.runs(code, limits={"timeout": 0.5})
    assert answer["outcomes"][0]["reason"] == "timeout"
    assert answer["took"][0] < 1.5
    assert answer["settled"]
    after(stage)


def test_a_cancelled_run_dies_at_once(stage: Stage) -> None:
    answer = stage.runs("import time\ndef main(args, context):\n    time.sleep(60)", cancel=True)
    outcome = answer["outcomes"][0]
    assert (outcome["status"], outcome["reason"]) == ("Cancelled", "cancelled")
    assert answer["took"][0] < 1
    assert answer["settled"]


def test_r10_the_limit_of_a_result_is_exact(stage: Stage) -> None:
    code = "def main(args, context):\n    return 'x' * args['n']"
    assert stage.output(code, args={"n": 998}, result_limit=1000) == "x" * 998
    outcome = stage.run(code, args={"n": 999}, result_limit=1000)
    assert outcome["reason"] == "limit"
    assert outcome["error"]["message"] == "the result is 1001 bytes of JSON, the limit is 1000"


def test_r10_a_frame_that_says_it_is_huge_is_not_waited_for(stage: Stage) -> None:
    code = (
        "import os, time\ndef main(args, context):\n    os.write(3, b'\\x7f\\xff\\xff\\xff' * 1000)\n    time.sleep(60)"
    )
    answer = stage.runs(code)
    assert answer["outcomes"][0]["reason"] == "limit"
    assert answer["took"][0] < 2


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("float('nan')", "float NaN cannot be JSON at $"),
        ("[1, {'a': float('-inf')}]", "float -Infinity cannot be JSON at $[1].a"),
        ("10**5000", "int of more than 4300 digits cannot be JSON at $"), ("b'x'", "bytes cannot be JSON at $"),
        ("{'k': {1, 2}}", "set cannot be JSON at $.k"), ("{1: 2}", "dict key of type int cannot be JSON"),
        ("__import__('datetime').datetime(2020, 1, 1)", "datetime.datetime cannot be JSON at $"),
        ("['ok', '\\ud800']", "str with a lone surrogate cannot be JSON at $[1]"),
        ("(lambda a: a.append(a) or a)([])", "a list that contains itself cannot be JSON at $[0]"),
        ("__import__('functools').reduce(lambda a, _: [a], range(100000), [])", "the result is nested too deeply"),
    ],
)  # fmt: skip
def test_r12_what_json_cannot_hold_is_named(stage: Stage, value: str, said: str) -> None:
    outcome = stage.run(f"def main(args, context):\n    return {value}")
    assert outcome["reason"] == "unserialisable"
    assert said in outcome["error"]["message"]


@pytest.mark.parametrize(
    ("leave", "reason", "kind"),
    [
        ("import sys; sys.exit(0)", "error", "SystemExit"), ("import sys; sys.exit(1)", "error", "SystemExit"),
        ("import os; os._exit(0)", "error", "NoResult"), ("raise KeyboardInterrupt", "error", "KeyboardInterrupt"),
        ("raise BaseException('b')", "error", "BaseException"), ("import os; os.abort()", "signal", "Signal"),
        ("import ctypes; ctypes.string_at(0)", "signal", "Signal"), ("import os; os.close(3)", "error", "NoResult"),
        ("import os; os.close(3); import time; time.sleep(60)", "error", "NoResult"),
        ("import os; os.execv('/bin/true', ['true'])", "error", "NoResult"),
    ],
)  # fmt: skip
def test_r13_no_way_to_leave_without_a_result_is_a_success(stage: Stage, leave: str, reason: str, kind: str) -> None:
    outcome = stage.run(f"def main(args, context):\n    {leave}")
    assert (outcome["status"], outcome["reason"], outcome["error"]["type"]) == ("Failure", reason, kind)
    after(stage)


def test_r15_a_child_left_behind_is_dead_when_the_run_is_over(stage: Stage) -> None:
    code = """
    import os, time
    def main(args, context):
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                while True:
                    time.sleep(0.01)
            os._exit(0)
        return "back"
    """
    answer = stage.runs(code)
    assert answer["outcomes"][0]["output"] == '"back"'
    assert answer["settled"]


def test_r17_nothing_that_would_run_at_the_end_can_hold_it_up(stage: Stage) -> None:
    code = """
    import atexit, threading, time
    def for_ever():
        while True:
            time.sleep(1)
    class Sticky:
        def __del__(self):
            for_ever()
    def main(args, context):
        atexit.register(for_ever)
        threading.Thread(target=for_ever).start()
        global kept
        kept = Sticky()
        return "back"
    """
    answer = stage.runs(code)
    assert answer["outcomes"][0]["output"] == '"back"'
    assert answer["took"][0] < 1
    assert answer["settled"]


def test_r19_descriptors_are_limited(stage: Stage) -> None:
    code = """
    import os
    def main(args, context):
        try:
            while True:
                os.dup(0)
        except OSError as error:
            return error.strerror
    """
    assert stage.output(code) == "Too many open files"
    unhandled = (
        "import os\ndef main(args, context):\n    held = []\n    while True:\n        held += map(open, ['/dev/null'])"
    )
    outcome = stage.run(unhandled)
    assert outcome["error"]["type"] == "OSError", "it can be told although nothing was left to tell it with"
    assert "held +=" in outcome["error"]["traceback"]


def test_r21_an_import_that_does_not_come_back_ends_with_its_reason(stage: Stage) -> None:
    code = "import time\nprint('on its way')\ntime.sleep(60)\ndef main(args, context): pass"
    started = time.monotonic()
    failed = stage.runs(code, import_timeout=1.0)["failed"]
    assert (failed["reason"], failed["log"]) == ("timeout", "on its way\n")
    assert time.monotonic() - started < 3


@pytest.mark.parametrize(
    ("start", "reason", "kind", "text"),
    [
        ("raise ValueError('no')", "error", "ValueError", "no"),
        ("import sys; sys.exit(3)", "error", "SystemExit", "the import called sys.exit(3)"),
        ("import os; os._exit(3)", "error", "ImportDied", "left the process with status 3"),
        ("import ctypes; ctypes.string_at(0)", "signal", "ImportDied", "SIGSEGV"),
        ("import nowhere", "error", "ModuleNotFoundError", "No module named 'nowhere'"),
        ("def main(: pass", "error", "SyntaxError", "invalid syntax"),
        ("main = 3", "error", "TypeError", "no function main"),
        ("import agent", "error", "ModuleNotFoundError", "No module named 'agent'"),
    ],
)
def test_r21_an_import_that_fails_says_how(stage: Stage, start: str, reason: str, kind: str, text: str) -> None:
    failed = stage.runs(start + "\n")["failed"]
    assert (failed["reason"], failed["type"]) == (reason, kind)
    assert text in failed["message"]


def test_r23_what_a_run_changes_in_its_process_ends_with_it(stage: Stage) -> None:
    code = """
    import locale, os, signal
    state = []
    def main(args, context):
        seen = [list(state), os.getcwd(), os.umask(0o077), signal.getsignal(signal.SIGTERM) is signal.SIG_DFL]
        state.append(1)
        os.chdir("/")
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.environ["LEFT"] = "x"
        return seen + [os.environ.get("LEFT2")]
    """
    expected = [[], "/tmp", 0o022, True, None]
    assert [stage.output(code), stage.output(code)] == [expected, expected]


def test_a_failure_shows_the_users_lines_only(stage: Stage) -> None:
    code = "import json\n\n\ndef main(args, context):\n    return json.loads('{')\n"
    error = stage.run(code)["error"]
    assert error["type"] == "json.decoder.JSONDecodeError"
    assert error["traceback"].startswith(
        "Traceback (most recent call last):\n  File \"/code/main.py\", line 5, in main\n    return json.loads('{')\n"
    )
    assert "agent" not in error["traceback"]


def test_main_may_be_async(stage: Stage) -> None:
    code = "import asyncio\nasync def main(args, context):\n    await asyncio.sleep(0)\n    return [args, context]"
    assert stage.output(code, args={"a": 1}, context={"KEY": "v"}) == [{"a": 1}, {"KEY": "v"}]


def test_random_numbers_differ_from_run_to_run(stage: Stage) -> None:
    code = """
    import hashlib, os, random, ssl, uuid
    random.random(), ssl.RAND_bytes(8)
    def main(args, context):
        return [random.random(), ssl.RAND_bytes(8).hex(), os.urandom(8).hex(), str(uuid.uuid4())]
    """
    outcomes = stage.runs(code, count=6)["outcomes"]
    columns = zip(*(json.loads(outcome["output"]) for outcome in outcomes), strict=True)
    assert [len(set(column)) for column in columns] == [6, 6, 6, 6]


def test_common_modules_work_under_the_filter(stage: Stage) -> None:
    code = """
    import asyncio, multiprocessing, socket, sqlite3, subprocess, sys, tempfile, threading, zoneinfo
    from concurrent.futures import ThreadPoolExecutor
    def main(args, context):
        with tempfile.NamedTemporaryFile() as file, ThreadPoolExecutor(2) as pool:
            db = sqlite3.connect(file.name)
            db.execute("create table t (x)")
            command = [sys.executable, "-c", "import sys; print(sys.prefix)"]
            said = subprocess.run(command, capture_output=True, text=True)
            server = socket.create_server(("127.0.0.1", 0))
            socket.create_connection(server.getsockname())
            queue = multiprocessing.get_context("fork").SimpleQueue()
            child = multiprocessing.get_context("fork").Process(target=queue.put, args=(7,))
            child.start(), child.join()
            return [said.stdout, list(pool.map(abs, [-1])), socket.getaddrinfo("localhost", 80)[0][4][0],
                    queue.get(), str(zoneinfo.ZoneInfo("Europe/Paris")), open("/dev/stdout", "w").write("x")]
    """
    assert stage.output(code) == ["/env\n", [1], "127.0.0.1", 7, "Europe/Paris", 1]


def test_an_import_with_threads_can_still_be_forked(stage: Stage) -> None:
    code = """
    import threading, time, os
    threading.Thread(target=time.sleep, args=(3600,), daemon=True).start()
    def main(args, context):
        return [threading.active_count() >= 1, os.getpid()]
    """
    assert stage.output(code) == [True, 1]


def test_many_runs_at_once_in_one_sandbox_all_end_well(stage: Stage) -> None:
    code = "import time\ndef main(args, context):\n    time.sleep(0.05)\n    return 1"
    answer = stage.runs(code, count=40, together=True)
    assert [outcome["status"] for outcome in answer["outcomes"]] == ["Success"] * 40
