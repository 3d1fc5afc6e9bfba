"""Stand-ins for the platform's children, each a few lines that keep to the real one's contract with the supervisor.

``python fake_children.py web FD | recorder | spot IP``. `FAKE_SPOT` = "refuses": it exits 2 and
says why; "stubborn": it ignores SIGTERM, as one with a long run in flight does. `FAKE_RUNNING`: how many runs it tells
of, else its pid, by which tests tell one spot from the next.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
import time


def main(kind: str, *arguments: str) -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    print(f"{kind} starts", flush=True)
    if kind == "web":
        return web(int(arguments[0]), arguments[1])
    if kind == "spot":
        return spot(arguments[0])
    if kind == "recorder":
        return recorder(arguments[0])
    return 0


def ready(descriptor: str) -> None:
    """Tell who waits for it, if anybody does."""
    if descriptor:
        os.write(int(descriptor), b"1")


def recorder(waiting: str) -> int:
    """Tells of itself, as soon as Redis is there."""
    from faaspot_api.errors import Unavailable
    from faaspot_api.queue.rq import RedisQueue
    from faaspot_api.settings import Settings

    queue = RedisQueue.open(Settings.load())
    while True:
        with contextlib.suppress(Unavailable):
            queue.beat("")
            ready(waiting)
            waiting = ""
        time.sleep(0.1)


def web(descriptor: int, waiting: str) -> int:
    print(sys.stdin.read(), flush=True)
    listener = socket.socket(fileno=descriptor)
    if os.path.exists(os.environ.get("FAKE_REFUSES", "")):
        print("this release is broken", flush=True)
        return 2
    ready(waiting)
    while True:
        connection, _ = listener.accept()
        with connection:
            connection.recv(4096)
            body = str(os.getpid()).encode()
            head = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body)
            connection.sendall(head + body)


def spot(ip: str) -> int:
    if os.environ.get("FAKE_SPOT") == "refuses":
        print("this kernel has no user namespaces: sysctl kernel.unprivileged_userns_clone=1", flush=True)
        return 2
    if os.environ.get("FAKE_SPOT") == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    from faaspot_api.queue.clients import connect
    from faaspot_api.settings import Settings
    from faaspot_runner.contract import SPOTS, SpotInfo, dump

    client = connect(Settings.load())
    while True:
        info = SpotInfo(
            ip=ip, created=1.0, last_seen=time.time(), status="online", runtimes=("sandbox",), pythons={},
            networks=("none",), limits="none", running=int(os.environ.get("FAKE_RUNNING", os.getpid())),
        )  # fmt: skip
        client.hset(SPOTS, ip, dump(info))
        time.sleep(0.1)


if __name__ == "__main__":
    print(json.dumps(sorted(name for name in os.environ if name.startswith("FAASPOT_"))), flush=True)
    sys.exit(main(*sys.argv[1:]))
