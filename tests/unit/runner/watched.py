"""A program: takes memory in one way, in namespaces of its own, under a `MemoryWatch`. Prints what the watch saw.

    python watched.py WAY LIMIT_MB [--fixed-buffers] [INTERPRETER]
     {"over": bool, "charged": MB, "tasks": n, "cpu_ms": ms}

Only the standard library: an ordinary user runs it with the system's interpreter.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import mmap
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "runner"))

from faaspot_runner.sandbox.memory import MemoryWatch

NEWNS, NEWIPC, NEWUSER, NEWPID, NEWNET = 0x20000, 0x8000000, 0x10000000, 0x20000000, 0x40000000
MAP_NORESERVE = 0x4000
MS_PRIVATE_REC = 0x40000 | 0x4000
LIBC = ctypes.CDLL(None, use_errno=True)
MEGABYTE = 2**20


def call(result: int) -> None:
    if result:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def enter() -> None:
    """Namespaces as a run has them: root mapped to us, a fresh /tmp and /dev/shm."""
    uid, gid = os.getuid(), os.getgid()
    call(LIBC.unshare(NEWUSER | NEWNS | NEWPID | NEWNET | NEWIPC))
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
    Path("/proc/self/gid_map").write_text(f"0 {gid} 1")
    call(LIBC.mount(None, b"/", None, MS_PRIVATE_REC, None))
    for place in (b"/tmp", b"/dev/shm"):
        call(LIBC.mount(b"tmpfs", place, b"tmpfs", 0, b"size=512m"))


def touch(area: mmap.mmap) -> None:
    for offset in range(0, len(area), mmap.PAGESIZE):
        area[offset] = 1


def area(megabytes: float, flags: int = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) -> mmap.mmap:
    made = mmap.mmap(-1, int(megabytes * MEGABYTE), flags=flags)
    touch(made)
    return made


KEPT: list[object] = []


def anonymous() -> None:
    KEPT.append(area(200))


def processes() -> None:
    for _ in range(40):
        if not os.fork():
            KEPT.append(area(5))
            signal.pause()


def unreadable() -> None:
    """A program in a file that may be executed and not be read: nobody may look into its process."""
    if not os.fork():
        code = f"held = b'x' * {200 * MEGABYTE}\nimport signal\nsignal.pause()"
        os.execv(sys.argv[-1], [sys.argv[-1], "-I", "-S", "-c", code])


def orphans() -> None:
    """Each with a parent that is gone, in a session of its own."""
    for _ in range(20):
        if not os.fork():
            os.setsid()
            if not os.fork():
                KEPT.append(area(10))
                signal.pause()
            os._exit(0)


def files() -> None:
    for name in ("/dev/shm/a", "/tmp/b"):
        with open(name, "wb") as file:
            for _ in range(100):
                file.write(b"x" * MEGABYTE)


def unnamed() -> None:
    """Shared memory without a name, held by several that share it."""
    KEPT.append(area(200, mmap.MAP_SHARED | mmap.MAP_ANONYMOUS))
    for _ in range(4):
        if not os.fork():
            signal.pause()


def pipes() -> None:
    for _ in range(100):
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        KEPT.append((reader, writer))
        while True:
            try:
                os.write(writer, b"x" * 65536)
            except BlockingIOError:
                break


def fill(pair: tuple[socket.socket, socket.socket]) -> None:
    pair[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2**30)
    pair[0].setblocking(False)
    while True:
        try:
            pair[0].send(b"x" * 32768)
        except BlockingIOError:
            return


def sockets() -> None:
    for _ in range(400):
        pair = socket.socketpair()
        fill(pair)
        KEPT.append(pair)


def flying() -> None:
    """Full sockets that nobody has open: they are in flight inside another."""
    for _ in range(400):
        carrier, pair = socket.socketpair(), socket.socketpair()
        fill(pair)
        socket.send_fds(carrier[0], [b"."], [pair[0].fileno(), pair[1].fileno()])
        KEPT.append(carrier)
        for end in pair:
            end.close()


def streams() -> None:
    """TCP over lo, written and never read."""
    with socket.socket() as probe:
        request = b"lo".ljust(16, b"\0") + (1).to_bytes(2, "little").ljust(24, b"\0")
        call(LIBC.ioctl(probe.fileno(), 0x8914, request))  # SIOCSIFFLAGS, IFF_UP
    listener = socket.create_server(("127.0.0.1", 18299))
    for _ in range(60):
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
        near.setblocking(False)
        KEPT.append((near, far))
        while True:
            try:
                near.send(b"x" * 65536)
            except BlockingIOError:
                break


def tables() -> None:
    """Reading untouched memory maps the zero page: no memory, only page tables."""
    wide = mmap.mmap(-1, 2**38, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE)
    LIBC.madvise(ctypes.c_void_p(address(wide)), ctypes.c_size_t(len(wide)), 15)  # MADV_NOHUGEPAGE
    KEPT.append(wide)
    for offset in range(0, 120_000 * 2 * MEGABYTE, 2 * MEGABYTE):
        _ = wide[offset]


def address(made: mmap.mmap) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(made))


def mappings() -> None:
    for _ in range(8):
        if not os.fork():
            wide = mmap.mmap(-1, 130_000 * mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            start = address(wide)
            LIBC.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
            for page in range(0, 130_000, 2):
                LIBC.mprotect(start + page * mmap.PAGESIZE, mmap.PAGESIZE, 0)
            KEPT.append(wide)
            signal.pause()


def leaderless() -> None:
    """The first thread of each ends, another one holds the memory: the process looks like a zombie."""
    for _ in range(10):
        if not os.fork():
            threading.Thread(target=lambda: (KEPT.append(area(20)), signal.pause())).start()
            LIBC.syscall(60 if os.uname().machine == "x86_64" else 93, 0)


def hidden() -> None:
    """Each makes itself one that only root may look into."""
    for _ in range(20):
        if not os.fork():
            call(LIBC.prctl(4, 0, 0, 0, 0))
            KEPT.append(area(10))
            signal.pause()


def hidden_pipes() -> None:
    for _ in range(4):
        if not os.fork():
            call(LIBC.prctl(4, 0, 0, 0, 0))
            pipes()
            signal.pause()


def innocent_forks() -> None:
    """A pool that shares what its parent has: little is taken in truth."""
    KEPT.append(area(40))
    for _ in range(8):
        if not os.fork():
            signal.pause()


def forked() -> None:
    """One that shares all that it took with a child: both have it, so it is nobody else's."""
    KEPT.append(area(200))
    if not os.fork():
        signal.pause()


def innocent_inheritance() -> None:
    """Little is taken on top of what its parent holds (`INHERITED`)."""
    KEPT.append(area(60))


def innocent_sharing() -> None:
    """A named shared memory that two processes have mapped."""
    with open("/dev/shm/shared", "wb+") as file:
        file.truncate(60 * MEGABYTE)
        KEPT.append(mmap.mmap(file.fileno(), 60 * MEGABYTE))
    for _ in range(2):
        if not os.fork():
            touch(KEPT[0])  # type: ignore[arg-type]
            signal.pause()


def innocent_threads() -> None:
    for _ in range(20):
        KEPT.append(socket.socketpair())
        KEPT.append(os.pipe())
        threading.Thread(target=signal.pause, daemon=True).start()
    sum(range(3_000_000))


WAYS: dict[str, Callable[[], None]] = {
    way.__name__: way
    for way in (
        anonymous, processes, unreadable, orphans, files, unnamed, pipes, sockets, flying, streams, tables, mappings,
        leaderless, hidden, hidden_pipes, forked, innocent_forks, innocent_inheritance, innocent_sharing,
        innocent_threads,
    )
}  # fmt: skip
INHERITED = {"innocent_inheritance": 150}
"""Megabytes that the parent holds, as a zygote does."""


def main(way: str, limit: int) -> None:
    ready, done = os.pipe()
    intermediate = os.fork()
    if not intermediate:
        enter()
        KEPT.append(area(INHERITED.get(way, 1)))
        init = os.fork()
        if init:
            os.waitpid(init, 0)
            os._exit(0)
        WAYS[way]()
        os.write(done, b".")
        while True:
            signal.pause()
    os.close(done)
    os.set_blocking(ready, False)
    children = Path(f"/proc/{intermediate}/task/{intermediate}/children")
    while not children.read_text():
        time.sleep(0.001)
    init = int(children.read_text())
    print(json.dumps(watch(init, limit, ready)))
    with contextlib.suppress(ProcessLookupError):
        os.kill(init, signal.SIGKILL)
    os.waitpid(intermediate, 0)


def watch(init: int, limit: int, ready: int) -> dict[str, object]:
    deadline = time.monotonic() + 30
    settled = 0
    with MemoryWatch(init, fixed_buffers="--fixed-buffers" in sys.argv) as seen:
        while (charged := seen.charged_mb(limit)) <= limit and settled < 20 and time.monotonic() < deadline:
            time.sleep(0.02)
            settled += bool(settled)
            try:
                settled += not settled and bool(os.read(ready, 1))
            except BlockingIOError:
                continue
        return {"over": charged > limit, "charged": charged, "tasks": seen.tasks(), "cpu_ms": seen.cpu_ms()}


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
