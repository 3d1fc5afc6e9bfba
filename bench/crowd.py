"""What one does to others (FAIR: ten thousand runs wait), and what too many do to all (LOAD: ten times the load)."""

from __future__ import annotations

import select
import statistics
import time
from collections import Counter
from typing import Any

from bench.measure import Client, Target, WrongAnswer, many_clients, one_client
from bench.scene import Findings, Scene

WAITING = 10_000
OTHERS = 30
"""Background runs of the other deployment, one after the other."""
PEAK, CROWD = 16, 160
REFUSALS = (429, 503)
FORGET_SECONDS = 4.0
"""After how long the platform knows of callers that have gone."""


def fair(scene: Scene, found: Findings) -> None:
    """Runs of one deployment while ten thousand of another wait."""
    scene.deploy("hello")
    call = scene.platform.call
    quiet: list[tuple[float, float]] = []
    crowded: list[tuple[float, float]] = []
    for repeat in range(scene.repeats):
        many = f"crowd-{repeat}"
        scene.deploy(many)
        quiet.append(_others(scene))
        answer = call("POST", f"deployments/{many}/bulk_rpc/", [{"name": str(number)} for number in range(WAITING)])
        assert answer.status == 200, answer
        crowded.append(_others(scene))
        if call("GET", f"executions/{answer.json[-1]}").json["status"] != "Pending":
            raise WrongAnswer("nothing waited any more: the measure was too slow for it")
        call("DELETE", f"deployments/{many}")
        while call("GET", "executions/?limit=1").json:
            time.sleep(0.1)
    for at, what in enumerate(("sync run, p50", "background run, accepted until started, median")):
        alone = found.row("FAIR", f"{what}, alone", "ms", [each[at] for each in quiet])
        among = found.row("FAIR", f"{what}, 10,000 of another waiting", "ms", [each[at] for each in crowded])
        found.at_most("FAIR", f"{what}: ms more", among.median - alone.median, 5.0)


def _others(scene: Scene) -> tuple[float, float]:
    """Milliseconds of a sync run, and from a background run's acceptance to its start by its own record."""
    sync = one_client(scene.target("hello"), seconds=1.0).p50
    started = []
    for number in range(OTHERS):
        uuid = scene.platform.start_run("hello", {"name": str(number)})
        started.append(_ended(scene, uuid)["timings"]["marks"]["started"])
    return sync, statistics.median(started)


def _ended(scene: Scene, uuid: str) -> Any:
    (record,) = scene.platform.call("POST", "executions/bulk", [uuid], headers={"Prefer": "wait=60"}).json
    if record["status"] != "Success":
        raise WrongAnswer(f"a run that ended: {record}")
    return record


def load(scene: Scene, found: Findings) -> None:
    """Good answers a second at ten times the clients that bring the most of them."""
    scene.deploy("hello")
    target = scene.target("hello")
    refused: Counter[int] = Counter()
    values = scene.interleaved(
        {
            "peak": lambda: many_clients(target, PEAK, seconds=scene.seconds).rate,
            "crowd": lambda: goodput(target, CROWD, refused, seconds=scene.seconds),
            "mob": lambda: goodput(target, 4 * CROWD, refused, seconds=scene.seconds),
        }
    )
    peak = found.row("LOAD", f"{PEAK} clients", "good/s", values["peak"])
    for name, clients in (("crowd", CROWD), ("mob", 4 * CROWD)):
        row = found.row("LOAD", f"{clients} clients, refused ones ask again at once", "good/s", values[name])
        found.at_least("LOAD", f"{clients} clients: share of the peak", row.median / peak.median, 0.8)
    found.notes.append(f"LOAD: refused with Retry-After: {dict(refused)}")


def goodput(target: Target, clients: int, refused: Counter[int], *, seconds: float) -> float:
    """Good answers a second to that many clients in a closed loop. Any other answer has to be an orderly refusal."""
    crew = {client.sock.fileno(): client for client in (Client(target) for _ in range(clients))}
    good, asked = 0, clients
    with select.epoll() as poll:
        try:
            for number, (fd, client) in enumerate(crew.items()):
                poll.register(fd, select.EPOLLIN)
                client.ask(number)
            begin = time.perf_counter()
            while time.perf_counter() - begin < seconds:
                for fd, _ in poll.poll(1.0):
                    status = crew[fd].status(REFUSALS)
                    if status is None:
                        continue
                    good += status == 200
                    refused[status] += status != 200
                    fd = _again(crew, fd, poll)
                    crew[fd].ask(asked)
                    asked += 1
            return good / (time.perf_counter() - begin)
        finally:
            for client in crew.values():
                client.sock.close()
            time.sleep(FORGET_SECONDS)


def _again(crew: dict[int, Client], fd: int, poll: select.epoll) -> int:
    """The descriptor to ask over: a new connection where the server has closed the old one."""
    if not crew[fd].closed:
        return fd
    poll.unregister(fd)
    client = crew.pop(fd).anew()
    crew[client.sock.fileno()] = client
    poll.register(client.sock.fileno(), select.EPOLLIN)
    return client.sock.fileno()
