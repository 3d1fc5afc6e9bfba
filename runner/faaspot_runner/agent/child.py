"""One run, in the process that was forked for it: isolate and warm, wait for work, run `main`, answer, end."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import socket
import sys
import time

from . import arguments, syscalls, values, wire
from .loader import describe, run

TYPE_CHECKING = False  # `typing` itself takes longer to import than all of ours
if TYPE_CHECKING:
    from typing import Any, Sequence

    from .loader import Main

CHANNEL = 3
"""The descriptor of the run's one channel; 0, 1 and 2 are beside it and nothing else of ours."""
REHEARSALS = 20
SMALL = 64 * 1024
"""Bytes of an answer that are sent as one."""
_UNPRIVILEGED = (
    b"\nCapPrm:\t0000000000000000\nCapEff:\t0000000000000000\nCapBnd:\t0000000000000000\nCapAmb:\t0000000000000000\n",
    b"\nNoNewPrivs:\t1\n",
    b"\nSeccomp:\t2\n",
)
"""Lines of the kernel's status of a process that has given up everything."""
MOUNTS = 4
"""Where a child that is `isolated` asks the sandbox's init for its mounts, see `sandbox.init`."""


class Config:
    """What the host says at the start about every run; see `sandbox.launch`."""

    def __init__(self, start: dict[str, Any]) -> None:
        self.isolated = bool(start["isolated"])
        self.uid: int | None = start["uid"]
        self.rlimits = [(int(kind), int(soft), int(hard)) for kind, soft, hard in start["rlimits"]]
        self.filter = bytes.fromhex(start["filter"])
        self.code = str(start["code"])
        self.packages: str | None = start["packages"]
        self.modules: list[str] | None = start["modules"]


def live(config: Config, main: Main, control: socket.socket, others: int, *, ahead: bool) -> None:
    """The whole life of a run's process, which one that is kept shares with the runs after it. Never returns.

    `others`: processes that count for the same uid already. `ahead`: its run has not come yet, there is time to warm.
    """
    try:
        if config.isolated:
            isolate(config)
        else:
            os.setsid()
            syscalls.prctl(syscalls.PR_SET_PDEATHSIG, 9)
        _limit(config, others)
        _reseed()
        if ahead:
            _warm()
        wire.send(control, {"op": "prepared"})
    except OSError as error:
        wire.send(control, {"op": "broken", "errno": error.errno or 0, "message": str(error)})
        os._exit(1)
    channel, request = _await_work(control)
    while True:
        _run(main, channel, request)
        if not request.get("keep"):
            os._exit(0)
        try:
            request = json.loads(wire.read_frame(channel))
        except (OSError, wire.WireError):
            os._exit(0)  # its worker has no more for it


def isolate(config: Config) -> None:
    """Own mounts, ipc and /tmp; then no privilege any more. The pid namespace is new since the fork."""
    syscalls.unshare(syscalls.CLONE_NEWNS | syscalls.CLONE_NEWIPC)
    _ask_for_mounts()
    os.chdir("/tmp")
    drop(config.uid)
    syscalls.load_filter(config.filter)
    _check()


def _ask_for_mounts() -> None:
    """A fresh /tmp and /dev/shm, and the /proc of this pid namespace. Raises OSError."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, MOUNTS) as init:
        with theirs:
            # Until then /proc is the zygote's, and knows this process by the number that it has outside.
            wire.send(init, {"op": "mount", "pid": int(os.readlink("/proc/self"))}, [theirs.fileno()])
        got = wire.receive(ours)
    if got is None or got[0]["op"] != "mounted":
        known = got[0] if got else {}
        raise OSError(int(known.get("errno", 0)), str(known.get("message", "the sandbox's init is gone")))


def drop(uid: int | None) -> None:
    """Give up every capability for good and become that uid, if one is said. The bounding set first: it needs one."""
    for cap in syscalls.ZYGOTE_CAPS:
        syscalls.prctl(syscalls.PR_CAPBSET_DROP, cap)
    if uid is not None:
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    syscalls.capset(())
    # A changed uid makes a process undumpable, and its own /proc/self root's; of its own it may read everything.
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 1)


def _check() -> None:
    """Look at what must hold rather than trust that every call did what it said."""
    status = _read("/proc/self/status")
    for line in _UNPRIVILEGED:
        if line not in status:
            raise OSError(1, "the process kept privileges: no %s in its status" % line.strip().decode())


def _limit(config: Config, others: int) -> None:
    """The run's own limits. What the zygote has already is not the run's to pay for: its data, its processes."""
    extra = {resource.RLIMIT_DATA: _data_bytes(), resource.RLIMIT_NPROC: others}
    for kind, soft, hard in config.rlimits:
        more, (least, most) = extra.get(kind, 0), resource.getrlimit(kind)
        soft, hard = (value if value < 0 else value + more for value in (soft, hard))
        if most != resource.RLIM_INFINITY and (hard < 0 or hard > most):
            hard = most
        wanted = (hard if 0 <= hard < soft else soft, hard)
        if wanted != (least, most):
            resource.setrlimit(kind, wanted)


def _data_bytes() -> int:
    """Private writable memory of this process, as RLIMIT_DATA counts it."""
    return int(_read("/proc/self/statm").split()[5]) * resource.getpagesize()


def _read(path: str) -> bytes:
    """A small file of the kernel's, without the buffers of a file object: what it touches is copied after a fork."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, 16384)
    finally:
        os.close(fd)


def _reseed() -> None:
    """Random states that the import made would be the same in every run. `random` itself is reseeded by the fork."""
    ssl = sys.modules.get("_ssl")
    if ssl is not None:
        ssl.RAND_add(os.urandom(32), 32.0)
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed()


def rehearse() -> None:
    """Go the way of a run some times, before anything is forked.

    CPython specialises code that is run again and again (3.11), and allocates some things once. What is done already is
    not done in every run's process, where each page that is written to is copied first.
    """
    for _ in range(REHEARSALS):
        _warm()


def _warm() -> None:
    """Go the way of a run once: its page faults are paid before the request comes."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(wire.frame(b'{"args":{"a":[1,2.5,"x"]},"context":{},"environ":{"A":"b"},"result_limit":99}'))
        request = json.loads(wire.read_frame(theirs))
        os.environ.update(request["environ"])
        del os.environ["A"]
        _send(theirs, answer(_echo, request, time.process_time()))
        ours.recv(4096)


def _echo(args: Any, context: Any) -> Any:
    return [args, context]


def _await_work(control: socket.socket) -> tuple[socket.socket, dict[str, Any]]:
    """Wait to be given a run; afterwards the run's channel is the only descriptor of ours."""
    got = wire.receive(control, 64)
    if got is None:
        os._exit(0)
    _, fds = got
    result, log, *groups = fds
    for group in groups:
        os.write(group, b"0")
    os.dup2(log, 1)
    os.dup2(log, 2)
    control.detach()
    os.dup2(result, CHANNEL, inheritable=False)
    wire.close(fds)
    channel = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, CHANNEL)
    return channel, json.loads(wire.read_frame(channel))


def _run(main: Main, channel: socket.socket, request: dict[str, Any]) -> None:
    if "nice" in request:
        os.nice(request["nice"])
    zone = os.environ.get("TZ")
    os.environ.clear()
    os.environ.update(request["environ"])
    if os.environ.get("TZ") != zone:
        time.tzset()
    serve(main, channel, request)


def serve(main: Main, channel: socket.socket, request: dict[str, Any]) -> None:
    """Call `main` and send what came of it. Only then go the args, which may be large: what their end does is late."""
    parts = answer(main, request, time.process_time(), channel)
    _flush()
    _send(channel, parts)
    del parts
    request.pop("args", None)


def _send(channel: socket.socket, parts: Sequence[bytes]) -> None:
    """One frame of all of them. What is large is not copied once more for it."""
    if sum(map(len, parts)) < SMALL:
        channel.sendall(wire.frame(b"".join(parts)))
        return
    channel.sendall(wire.header(sum(map(len, parts))))
    for part in parts:
        channel.sendall(part)


def answer(main: Main, request: dict[str, Any], cpu: float, channel: socket.socket | None = None) -> Sequence[bytes]:
    """Call `main`; the parts of the frame to send back. `channel`: where args are that are not in the request."""
    limit, began = request["result_limit"], time.monotonic()
    try:
        if channel is not None and "args_bytes" in request:
            request["args"] = _args_behind(request, channel)
            began = time.monotonic()
        value = run(main, request["args"], request["context"])
    except arguments.InvalidArgs as error:
        return _failure("error", {"type": "InvalidArgs", "message": str(error), "traceback": None}, began)
    except BaseException as error:  # noqa: BLE001 (the user's code may raise anything, sys.exit included)
        return _failure("error", describe(error), began)
    finished = time.monotonic()
    try:
        output = values.encode(value)
    except values.Unserialisable as error:
        return _failure("unserialisable", {"type": "Unserialisable", "message": str(error), "traceback": None}, began)
    except BaseException as error:  # noqa: BLE001 (so may the methods of what it returned)
        return _failure("error", describe(error), began)
    if len(output) > limit:
        text = "the result is %d bytes of JSON, the limit is %d" % (len(output), limit)
        return _failure("limit", {"type": "ResultTooLarge", "message": text, "traceback": None}, began)
    usage = (time.process_time() - cpu) * 1000, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    head = b'{"ok":true,"began":%.6f,"finished":%.6f,"cpu_ms":%.3f,"max_memory_mb":%.3f,' % (began, finished, *usage)
    return head + b'"output":', output, b"}"


def _args_behind(request: dict[str, Any], channel: socket.socket) -> dict[str, Any]:
    """The args that follow the request on the channel. Raises InvalidArgs, MemoryError."""
    # Where they were not read whole the next request could not be told from them.
    keep = request.pop("keep", False)
    text = arguments.read(channel, request["args_bytes"])
    request["keep"] = keep
    return arguments.parse(text)


def _failure(reason: str, error: dict[str, Any], began: float) -> Sequence[bytes]:
    told = {"ok": False, "reason": reason, "error": error, "began": began, "finished": time.monotonic()}
    return (json.dumps(told).encode(),)


def _flush() -> None:
    """Everything printed is in the log before the result is out: the process is killed as soon as it is."""
    for stream in (sys.stdout, sys.stderr):
        # The user may have put anything there, or closed it.
        with contextlib.suppress(Exception):
            stream.flush()
    syscalls.flush_stdio()
