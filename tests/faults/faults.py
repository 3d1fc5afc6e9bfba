"""The faults, one function each: what is done to a running platform, and undone where it does not pass by itself.

F numbers are those of the project's list of faults, as RELIABILITY.md names them.
"""

from __future__ import annotations

import contextlib
import random
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import redis

from tests.faults.worlds import PASSWORD, World, kill

ZYGOTE = "faaspot-zygote"
POINTS = ("before_commit", "after_commit", "after_dequeue", "before_report", "before_acknowledge", "after_told")


Fault = Callable[[World, random.Random], None]


def _one(world: World, chance: random.Random, *words: str) -> int | None:
    found = world.platform.processes(*words)
    return chance.choice(found) if found else None


def _kill_one(world: World, chance: random.Random, *words: str) -> None:
    if (pid := _one(world, chance, *words)) is not None:
        kill(pid)


def _zygotes(world: World) -> list[int]:
    """The zygotes among the processes of sandboxes: the agent's, one pid namespace above its runs."""
    found = []
    for pid in world.alive():
        with contextlib.suppress(OSError):
            status = Path(f"/proc/{pid}/status").read_text()
            depth = next(len(line.split()) - 1 for line in status.splitlines() if line.startswith("NSpid:"))
            if Path(f"/proc/{pid}/comm").read_text().strip() == ZYGOTE and depth == 3:
                found.append(pid)
    return found


# ---------------------------------------------------------------- processes


def kill_worker(world: World, chance: random.Random) -> None:
    """F1, F2: the runs' processes are the zygote's, so they outlive their worker for a moment."""
    _kill_one(world, chance, "faaspot_runner.worker", chance.choice(("sync", "background")))


def kill_spot(world: World, chance: random.Random) -> None:
    _kill_one(world, chance, "faaspot_runner", "spot", "--ip")


def kill_web_process(world: World, chance: random.Random) -> None:
    _kill_one(world, chance, "faaspot_api", "gunicorn")


def kill_recorder(world: World, chance: random.Random) -> None:
    _kill_one(world, chance, "faaspot_api", "recorder")


def kill_zygote(world: World, chance: random.Random) -> None:
    """F14."""
    if found := _zygotes(world):
        kill(chance.choice(found))


def kill_everything(world: World, _chance: random.Random) -> None:
    """F18: the power goes; it comes back with what the disk has."""
    process = world.platform.process
    assert process is not None
    for pid in (process.pid, *world.alive()):
        kill(pid)
    process.wait(20)
    world.platform.start(90)


def restart_in_order(world: World, _chance: random.Random) -> None:
    """F19: SIGTERM, as for an upgrade."""
    world.platform.stop(60)
    world.platform.start(90)


def die_at_a_point(world: World, chance: random.Random) -> None:
    """F3, F4, F6, F7."""
    (world.points / chance.choice(POINTS)).touch()
    time.sleep(chance.uniform(0.5, 2.0))


def freeze_worker(world: World, chance: random.Random) -> None:
    """Longer than a lease lives, now and then: its runs are another's then, and its own must be dead or refused."""
    if (pid := _one(world, chance, "faaspot_runner.worker")) is not None:
        world.freeze(pid, chance.choice((1.0, 4.0, 30.0)))


def freeze_spot(world: World, chance: random.Random) -> None:
    if (pid := _one(world, chance, "faaspot_runner", "spot", "--ip")) is not None:
        world.freeze(pid, chance.uniform(0.5, 4.0))


def freeze_recorder(world: World, chance: random.Random) -> None:
    if (pid := _one(world, chance, "faaspot_api", "recorder")) is not None:
        world.freeze(pid, chance.uniform(0.5, 4.0))


def freeze_zygote(world: World, chance: random.Random) -> None:
    """F14."""
    if found := _zygotes(world):
        world.freeze(chance.choice(found), chance.uniform(0.5, 3.0))


# ---------------------------------------------------------------- Redis


def kill_redis(world: World, _chance: random.Random) -> None:
    """F8, with what its log kept."""
    world.valkey.kill()
    world.valkey.start()


def empty_redis(world: World, _chance: random.Random) -> None:
    """F8, with nothing."""
    world.valkey.kill(forget=True)
    world.valkey.start()


def freeze_redis(world: World, chance: random.Random) -> None:
    """F9."""
    assert world.valkey.process is not None
    world.freeze(world.valkey.process.pid, chance.uniform(0.5, 6.0))


@contextlib.contextmanager
def _told(world: World, wrong: tuple[str, str], right: tuple[str, str]) -> Iterator[redis.Redis]:
    with world.redis() as client:
        client.config_set(*wrong)
        try:
            yield client
        finally:
            client.config_set(*right)


def fill_redis(world: World, chance: random.Random) -> None:
    """F10: over its memory limit, and it evicts nothing."""
    with _told(world, ("maxmemory", "1mb"), ("maxmemory", "0")):
        time.sleep(chance.uniform(0.5, 3.0))


def change_password(world: World, chance: random.Random) -> None:
    """F10: whoever connects anew is refused; who is connected is cut off."""
    with _told(world, ("requirepass", "another"), ("requirepass", PASSWORD)) as client:
        client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        time.sleep(chance.uniform(0.5, 2.0))


def make_redis_read_only(world: World, chance: random.Random) -> None:
    """F10: what a failover to a replica looks like."""
    with world.redis() as client:
        client.execute_command("REPLICAOF", "127.0.0.1", "1")
        try:
            time.sleep(chance.uniform(0.5, 3.0))
        finally:
            client.execute_command("REPLICAOF", "NO", "ONE")


# ---------------------------------------------------------------- disk and database


def fill_disk(world: World, chance: random.Random) -> None:
    """F11."""
    filler = world.platform.data / "filler"
    subprocess.run(["dd", "if=/dev/zero", f"of={filler}", "bs=1M"], stderr=subprocess.DEVNULL, check=False)
    try:
        time.sleep(chance.uniform(0.5, 3.0))
    finally:
        filler.unlink()


def lock_database(world: World, chance: random.Random) -> None:
    """F13: another program writes, longer now and then than a caller is made to wait."""
    path = world.platform.data / "db" / "faaspot.db"
    with (
        contextlib.suppress(sqlite3.OperationalError),
        contextlib.closing(sqlite3.connect(path, isolation_level=None, timeout=10)) as database,
    ):
        database.execute("BEGIN IMMEDIATE")
        time.sleep(chance.choice((0.5, 2.0, 7.0)))
        database.execute("ROLLBACK")


FAULTS: tuple[Fault, ...] = (
    kill_worker, kill_spot, kill_web_process, kill_recorder, kill_zygote, kill_everything, restart_in_order,
    die_at_a_point, freeze_worker, freeze_spot, freeze_recorder, freeze_zygote, kill_redis, empty_redis, freeze_redis,
    fill_redis, change_password, make_redis_read_only, fill_disk, lock_database,
)  # fmt: skip
