"""Closed-loop load over keep-alive connections, and what came of it. A wrong or missing answer raises `WrongAnswer`."""

from __future__ import annotations

import json
import select
import socket
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field

CONNECT_SECONDS = 10.0
ANSWER_SECONDS = 60.0


class WrongAnswer(Exception):
    """A peer, or we, answered something else than what was asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Latencies in milliseconds and answers a second of one measurement."""

    p50: float
    p95: float
    p99: float
    rate: float
    count: int

    @classmethod
    def of(cls, took: list[float], seconds: float) -> Load:
        """The load of these latencies (ms), measured in that time."""
        cuts = statistics.quantiles(took, n=100)
        return cls(p50=cuts[49], p95=cuts[94], p99=cuts[98], rate=len(took) / seconds, count=len(took))


def greeting(number: int) -> str:
    """What every function under test answers."""
    return f"Hello {number}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """An HTTP address that answers `greeting` to `{"name": "NUMBER"}`, as JSON text or as plain text."""

    host: str
    port: int
    path: str
    headers: dict[str, str] = field(default_factory=dict)

    def request(self, number: int) -> bytes:
        body = json.dumps({"name": str(number)}).encode()
        head = {"Host": self.host, "Content-Type": "application/json", "Content-Length": len(body), **self.headers}
        lines = "".join(f"{name}: {value}\r\n" for name, value in head.items())
        return f"POST {self.path} HTTP/1.1\r\n{lines}\r\n".encode() + body

    def connect(self) -> socket.socket:
        sock = socket.create_connection((self.host, self.port), timeout=CONNECT_SECONDS)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.settimeout(ANSWER_SECONDS)
        return sock


class _Answer:
    """One answer on its way in."""

    def __init__(self) -> None:
        self._data = b""
        self._whole: int | None = None

    def add(self, data: bytes) -> bool:
        """Whether it is whole now."""
        self._data += data
        if self._whole is None:
            head, gap, _ = self._data.partition(b"\r\n\r\n")
            if gap:
                self._whole = len(head) + 4 + _length(head)
        return self._whole is not None and len(self._data) >= self._whole

    def check(self, number: int) -> None:
        """Raises WrongAnswer."""
        head, _, body = self._data.partition(b"\r\n\r\n")
        wanted = greeting(number)
        if not head.startswith(b"HTTP/1.1 200") or body.strip() not in (wanted.encode(), json.dumps(wanted).encode()):
            raise WrongAnswer(f"to {number}: {self._data[:500]!r}")

    def status(self, number: int, refusals: tuple[int, ...]) -> int:
        """The status, of a right answer or an orderly refusal. Raises WrongAnswer."""
        head, _, _ = self._data.lower().partition(b"\r\n\r\n")
        status = int(head[9:12])
        if status not in refusals:
            self.check(number)
        elif b"\r\nretry-after:" not in head:
            raise WrongAnswer(f"a refusal without Retry-After: {self._data[:500]!r}")
        return status

    @property
    def last(self) -> bool:
        """Whether nothing comes behind it on its connection."""
        return b"\r\nconnection: close" in self._data.lower().partition(b"\r\n\r\n")[0]


def _length(head: bytes) -> int:
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line.split(b":", 1)[1])
    raise WrongAnswer(f"an answer without Content-Length: {head[:500]!r}")


def _receive(sock: socket.socket, answer: _Answer) -> bool:
    data = sock.recv(65536)
    if not data:
        raise WrongAnswer("the server closed the connection instead of answering")
    return answer.add(data)


def http_caller(target: Target) -> tuple[Callable[[int], None], Callable[[], None]]:
    """A call over one connection, and what closes it."""
    sock = target.connect()

    def call(number: int) -> None:
        sock.sendall(target.request(number))
        answer = _Answer()
        while not _receive(sock, answer):
            pass
        answer.check(number)

    return call, sock.close


def one_after_the_other(call: Callable[[int], None], *, seconds: float, most: int = 100_000, warm: int = 20) -> Load:
    """One client, the next call when the last one is answered."""
    for number in range(warm):
        call(number)
    took: list[float] = []
    begin = last = time.perf_counter()
    while (last - begin < seconds or len(took) < 5) and len(took) < most:
        call(len(took))
        now = time.perf_counter()
        took.append((now - last) * 1000)
        last = now
    return Load.of(took, last - begin)


def one_client(target: Target, *, seconds: float) -> Load:
    """One keep-alive connection in a closed loop."""
    call, close = http_caller(target)
    try:
        return one_after_the_other(call, seconds=seconds)
    finally:
        close()


class Client:
    """One of many connections in a closed loop."""

    def __init__(self, target: Target) -> None:
        self.sock = target.connect()
        self._target = target
        self._number = -1

    def ask(self, number: int) -> None:
        self._number = number
        self._answer = _Answer()
        self._asked = time.perf_counter()
        self.sock.sendall(self._target.request(number))

    def hear(self) -> float | None:
        """Milliseconds that the answer took, None while it is not whole."""
        if not _receive(self.sock, self._answer):
            return None
        took = (time.perf_counter() - self._asked) * 1000
        self._answer.check(self._number)
        return took

    def status(self, refusals: tuple[int, ...]) -> int | None:
        """The answer's status, None while it is not whole. Raises WrongAnswer for one that is neither right nor one of
        these with a Retry-After."""
        if not _receive(self.sock, self._answer):
            return None
        return self._answer.status(self._number, refusals)

    @property
    def closed(self) -> bool:
        """Whether the server closes the connection behind its answer."""
        return self._answer.last

    def anew(self) -> Client:
        """The same on a new connection."""
        self.sock.close()
        return Client(self._target)


def many_clients(target: Target, clients: int, *, seconds: float) -> Load:
    """That many keep-alive connections, each in a closed loop, driven by one thread."""
    crew = {client.sock.fileno(): client for client in (Client(target) for _ in range(clients))}
    poll = select.epoll()
    took: list[float] = []
    try:
        for number, (fd, client) in enumerate(crew.items()):
            poll.register(fd, select.EPOLLIN)
            client.ask(number)
        asked, begin = clients, time.perf_counter()
        while time.perf_counter() - begin < seconds:
            ready = poll.poll(ANSWER_SECONDS)
            if not ready:
                raise WrongAnswer(f"no answer in {ANSWER_SECONDS} s")
            for fd, _ in ready:
                if (one := crew[fd].hear()) is not None:
                    took.append(one)
                    crew[fd].ask(asked)
                    asked += 1
        return Load.of(took, time.perf_counter() - begin)
    finally:
        poll.close()
        for client in crew.values():
            client.sock.close()
