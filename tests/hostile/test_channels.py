"""Attacks on the agent's own channels: forged frames, descriptors that are sent along, other runs of the deployment.

The agent shares its process with hostile code, so everything that it could say hostile code can say.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from tests.hostile.conftest import Arena, Outcome
from tests.platforms import Answer, eventually

FORGE = """
import array, json, os, socket, struct, sys, time
def channel():
    return socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, os.dup(3))
def frame(data):
    return len(data).to_bytes(4, "big") + data
"""
FRAMES = {
    "of length 0": ("send(b'\\0' * 4)", {"unserialisable"}),
    "of length 0, then without end": ("send(b'\\0' * 4)\n    while True: send(b'x' * (1 << 20))", {"unserialisable"}),
    "that says 4 GB": ("send(b'\\xff' * 4)\n    while True: send(b'x' * (1 << 20))", {"limit"}),
    "that never comes whole": ("send((1000).to_bytes(4, 'big') + b'{')\n    time.sleep(600)", {"timeout"}),
    "of half a header": ("send(b'\\0\\0')\n    os._exit(0)", {"error"}),
    "of a pickle": ("import pickle; send(frame(pickle.dumps(os.system)))\n    time.sleep(600)", {"unserialisable"}),
    "of no UTF-8": ("send(frame(b'{\"ok\":true,\"output\":\"\\xff\"}'))\n    time.sleep(600)", {"unserialisable"}),
    "of JSON nested deeply": ("send(frame(b'{\"ok\":true,\"output\":' + b'[' * 200000 + b']' * 200000 + b'}'))", {"unserialisable"}),
    "of huge numbers": ("send(frame(b'{\"ok\":true,\"output\":' + b'9' * 100000 + b'}'))", {"unserialisable"}),
    "of another reason": ("send(frame(b'{\"ok\":false,\"reason\":\"cancelled\",\"error\":{}}'))", {"unserialisable"}),
    "of an error that is none": ("send(frame(b'{\"ok\":false,\"reason\":\"error\",\"error\":[[]]}'))", {"error"}),
    "of odd usage": ("send(frame(b'{\"ok\":true,\"cpu_ms\":1e999,\"output\":NaN}'))", {"unserialisable"}),
}  # fmt: skip


@pytest.mark.parametrize("kind", FRAMES)
def test_e44_a_forged_frame_ends_the_run_with_a_reason_of_its_own(arena: Arena, kind: str) -> None:
    statements, reasons = FRAMES[kind]
    code = f"{FORGE}\ndef main(args, context):\n    send = channel().sendall\n    {statements}\n    return 'not this'\n"
    began = time.monotonic()
    outcome = arena.attack(code, timeout=3)
    assert outcome.status == "Failure", outcome
    assert outcome.reason in reasons, outcome
    assert time.monotonic() - began < 3 + 3


def test_e29_e44_of_two_results_the_first_one_counts(arena: Arena) -> None:
    code = FORGE + (
        "def main(args, context):\n    out = channel()\n"
        '    out.sendall(frame(b\'{"ok":true,"output":"first"}\') + frame(b\'{"ok":true,"output":"second"}\'))\n'
        "    return 'third'\n"
    )
    assert arena.attack(code).output == "first"


LINGERING = """
def lingering():
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    sender = socket.create_connection(listener.getsockname())
    held = listener.accept()[0]
    sender.setblocking(False)
    try:
        while True:
            sender.send(b"x" * 65536)
    except BlockingIOError:
        pass
    sender.setblocking(True)
    sender.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 300))
    return sender, [listener, held]
"""


def test_e43_a_descriptor_whose_closing_blocks_holds_nobody_up(arena: Arena) -> None:
    """Who gets a socket over a channel closes it, and closing a lingering one waits for whoever reads from it."""
    code = (
        FORGE
        + LINGERING
        + """
def main(args, context):
    sender, held = lingering()
    channel().sendmsg([frame(b'{"ok":true,"output":1}')], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [sender.fileno()]))])
    sender.close()
    time.sleep(600)
"""
    )
    began = time.monotonic()
    assert arena.attack(code, timeout=20).output == 1
    assert time.monotonic() - began < 10


def test_e43_the_spot_is_not_held_up_by_what_an_import_sends_it(arena: Arena) -> None:
    code = (
        FORGE
        + LINGERING
        + """
sender, held = lingering()
control = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, os.dup(3))
for message in (b'{"op":"ready","import_ms":1.0}', b"no json", b"x" * 70000, b"{}", b'{"op":5}'):
    control.sendmsg([message], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [sender.fileno()] * 200))])
sender.close()
def main(args, context):
    return 1
"""
    )
    began = time.monotonic()
    arena.attack(code, timeout=20)
    assert time.monotonic() - began < 10


def test_e43_no_descriptor_that_a_run_sends_stays_with_the_worker(arena: Arena) -> None:
    code = (
        FORGE
        + """
def main(args, context):
    fds = array.array("i", [os.open("/dev/null", os.O_RDONLY) for _ in range(200)])
    channel().sendmsg([frame(b'{"ok":true,"output":1}')], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])
    time.sleep(600)
"""
    )
    workers = arena.platform.processes("faaspot_runner")
    with arena.deployed(code) as name:
        counts = []
        for _ in range(4):
            assert arena.judge(arena.platform.run(name)).output == 1
            counts.append(sum(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in workers))
    assert counts[-1] - counts[0] < 100, counts


FORGED_BY_IMPORT = {
    "ready twice": """control.send(b'{"op":"ready","import_ms":1.0}')""",
    "failed without an error": """control.send(b'{"op":"failed"}'); time.sleep(1)""",
    "failed with an odd error": """control.send(b'{"op":"failed","error":[1]}'); time.sleep(1)""",
    "failed as the set-up": """control.send(b'{"op":"failed","stage":"user namespace","errno":1,"error":{"message":"x"}}'); time.sleep(1)""",
    "failed as an odd set-up": """control.send(b'{"op":"failed","stage":7}'); time.sleep(1)""",
    "ready without a time": """control.send(b'{"op":"ready"}')""",
    "ready with an odd time": """control.send(b'{"op":"ready","import_ms":[]}')""",
    "ready in no time": """control.send(b'{"op":"ready","import_ms":-1e308}')""",
    "ended of nothing": """control.send(b'{"op":"ended","status":"x"}'); time.sleep(1)""",
    "no message": """control.send(b'')""",
    "no JSON": """control.send(b'\\xff\\xfe')""",
    "a closed channel": """control.shutdown(2)""",
    "no reader": """time.sleep(600)""",
}


def test_e44_what_an_import_tells_the_spot_breaks_only_its_own_deployment(arena: Arena) -> None:
    channel = "control = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, os.dup(3))"
    codes = {
        what: f"{FORGE}\n{channel}\n{statement}\ndef main(args, context):\n    return 'ran'\n"
        for what, statement in FORGED_BY_IMPORT.items()
    }
    for what, outcome in arena.attack_all(codes, timeout=3).items():
        if outcome.status == "Success":
            assert outcome.output == "ran", (what, outcome)
        else:
            assert outcome.reason in ("error", "timeout", "signal", "worker_lost"), (what, outcome)


SERVES_LIES = (
    FORGE
    + """
import select, threading
control = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, os.dup(3))
def say(sock, message, fds=()):
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    sock.sendmsg([message if isinstance(message, bytes) else json.dumps(message).encode()], rights)
say(control, {"op": "ready", "import_ms": 1.0})
def serve(sock):
    while True:
        data, ancillary, _, _ = sock.recvmsg(65536, 1024)
        fds = array.array("i")
        for _, _, rights in ancillary:
            fds.frombytes(rights)
        message = json.loads(data) if data else {"op": "end"}
        if message["op"] == "end":
            os._exit(0)
        if message["op"] == "connect":
            threading.Thread(target=serve, args=(socket.socket(fileno=fds[0]),), daemon=True).start()
        if message["op"] == "run":
            id, result, null = message["id"], fds[0], os.open("/dev/null", os.O_RDWR)
            LIE
def pidfd(pid):
    import ctypes
    return ctypes.CDLL(None).syscall(434, pid, 0)
serve(control)
"""
)
LIES = {
    "nothing": "pass",
    "no process": "say(sock, {'op': 'forked', 'id': id}, [null])",
    "itself": "say(sock, {'op': 'forked', 'id': id}, [pidfd(os.getpid())])",
    "init": "say(sock, {'op': 'forked', 'id': id}, [pidfd(1)])",
    "no descriptor": "say(sock, {'op': 'forked', 'id': id})",
    "sockets": "say(sock, {'op': 'forked', 'id': id}, [result] * 100)",
    "an odd status": "say(sock, {'op': 'exited', 'id': id, 'status': 'x' * 60000})",
    "a huge status": "say(sock, {'op': 'exited', 'id': id, 'status': 10 ** 4000, 'cpu_ms': -1, 'max_memory_mb': 'x'})",
    "refused for ever": "say(sock, {'op': 'refused', 'id': id, 'errno': 'x', 'message': ['y']})",
    "no JSON": "say(sock, b'\\\\xff')",
    "a flood": "\n".join(
        ["for n in range(2000):", " " * 16 + "say(sock, {'op': 'exited', 'id': 'x' + str(n), 'status': 0}, [null])"]
    ),
    "a result of its own": 'os.write(result, frame(b\'{"ok":true,"output":"forged"}\'))',
}


def test_e44_a_zygote_that_lies_to_a_worker_harms_only_its_own_runs(arena: Arena) -> None:
    main = "def main(args, context):\n    return 1\n"
    codes = {lie: SERVES_LIES.replace("LIE", statement) + main for lie, statement in LIES.items()}
    for lie, outcome in arena.attack_all(codes, timeout=2).items():
        assert outcome.status == "Failure", (lie, outcome)
        assert outcome.reason in ("timeout", "worker_lost", "error"), (lie, outcome)


def test_e47_runs_of_one_deployment_cannot_see_signal_or_trace_each_other(arena: Arena) -> None:
    code = """
    import ctypes, os, socket, time
    def main(args, context):
        open("/tmp/" + args["n"], "w").write(args["n"])
        seen = {"pids": sorted(int(name) for name in os.listdir("/proc") if name.isdigit()), "tmp": os.listdir("/tmp")}
        end = time.monotonic() + 1.5
        while time.monotonic() < end:
            try:
                os.kill(-1, 9)
            except ProcessLookupError:
                pass
            for pid in range(2, 40):
                try:
                    os.kill(pid, 9)
                except ProcessLookupError:
                    pass
            if os.listdir("/tmp") != [args["n"]]:
                return "another's file"
            time.sleep(0.01)
        return seen
    """
    answers: list[Answer] = []
    with arena.deployed(code) as name:
        threads = [
            threading.Thread(target=lambda n=n: answers.append(arena.platform.run(name, {"n": str(n)})))
            for n in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        outcomes: list[Outcome] = [arena.judge(answer) for answer in answers]
    assert sorted(outcome.output["tmp"][0] for outcome in outcomes) == ["0", "1", "2", "3"], outcomes
    assert all(outcome.output["pids"] == [1] for outcome in outcomes), outcomes


def test_e47_a_killed_zygote_is_made_anew_and_its_runs_end(arena: Arena) -> None:
    """A thread of the import kills the zygote after a while; the next run finds another one."""
    code = """
    import os, threading, time
    threading.Timer(1.5, os.kill, (os.getpid(), 9)).start()
    def main(args, context):
        time.sleep(args["s"])
        return "ran"
    """
    with arena.deployed(code, timeout=10) as name:
        first = arena.judge(arena.platform.run(name, {"s": 0}))
        assert first.output == "ran"
        hit = arena.judge(arena.platform.run(name, {"s": 5}))
        assert hit.reason in ("worker_lost", "signal", "error"), hit

        def again() -> bool:
            return bool(arena.platform.run(name, {"s": 0}).status == 200)

        eventually(again, 10, "the deployment runs again")


@pytest.mark.parametrize("how", ["plain", "packets"])
def test_r6_r7_a_log_of_single_bytes_delays_no_deadline(arena: Arena, how: str) -> None:
    packets = (
        "fcntl.fcntl(1, fcntl.F_SETFL, fcntl.fcntl(1, fcntl.F_GETFL) | os.O_DIRECT)" if how == "packets" else "pass"
    )
    code = f"import fcntl, os\ndef main(args, context):\n    {packets}\n    while True:\n        os.write(1, b'x')\n"
    began = time.monotonic()
    outcome = arena.attack(code, timeout=2)
    assert outcome.reason == "timeout", outcome
    assert time.monotonic() - began < 5
