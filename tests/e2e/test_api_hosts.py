"""The API on several hosts: one PostgreSQL, one Redis and one directory of blobs, and nothing is lost between them."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests import platforms
from tests.platforms import Platform, eventually
from tests.postgres_servers import BINARIES, MISSING, running_postgres
from tests.redis_sentinels import free_ports
from tests.redis_servers import PASSWORD, running_redis

CODE = "def main(args, context):\n    return [{number}, args['n']]\n"
PARTS = ("gunicorn", "recorder")


@contextlib.contextmanager
def second_host(first: Platform, environ: dict[str, str]) -> Iterator[Platform]:
    """API and recorder alone, as docs/operations.md starts them on another host: the public key and the blobs are all
    that they get of the first.
    """
    home = first.home / "second"
    (home / "data" / "keys").mkdir(parents=True)
    shutil.copy(first.data / "keys" / "spot.pub", home / "data" / "keys")
    (home / "data" / "blobs").symlink_to(first.data / "blobs")
    owner = first.home.stat().st_uid
    who: dict[str, Any] = {"user": owner, "group": owner, "extra_groups": []} if owner != os.geteuid() else {}
    for path in (home, *home.rglob("*")):
        os.chown(path, owner, owner, follow_symlinks=False)
    (port,) = free_ports(1)
    said = {**environ, "FAASPOT_DATA_DIR": str(home / "data"), "FAASPOT_PORT": str(port), "HOME": str(home)}
    with (home / "log").open("w") as log, contextlib.ExitStack() as stack:
        for part in PARTS:
            command = [first.python, "-m", "faaspot_api", part]
            process = subprocess.Popen(
                command,
                env={**os.environ, **said},
                cwd=home,
                stdout=log,
                stderr=log,
                **who,  # type: ignore[arg-type]
            )
            stack.callback(process.wait, 40)
            stack.callback(process.terminate)
        url = f"http://127.0.0.1:{port}"
        other = Platform(first.setup, home, url=url, token=first.token)
        eventually(lambda: answers(other), 30, "the second API answers")
        yield other


def answers(platform: Platform) -> bool:
    with contextlib.suppress(OSError):
        return platform.call("GET", f"{platform.url}/healthz", token=None).status == 200
    return False


@pytest.mark.skipif(BINARIES is None, reason=MISSING)
def test_no_update_is_lost_between_two_hosts_and_each_runs_what_the_other_made() -> None:
    (port,) = free_ports(1)
    with running_postgres() as postgres, running_redis(f"port {port}\nbind 127.0.0.1\n"):
        environ = {
            "FAASPOT_DATABASE_URL": postgres.create("platform"),
            "FAASPOT_REDIS_URL": f"redis://127.0.0.1:{port}/0",
            "FAASPOT_REDIS_PASSWORD": PASSWORD,
        }
        with platforms.platform("user", environ=environ) as first, second_host(first, environ) as second:
            second.deploy("echo", CODE.format(number=0))
            assert first.run("echo", {"n": 1}).json == [0, 1]
            updates(first, second)
            spread(first, second)


def updates(first: Platform, second: Platform) -> None:
    """Twenty changes at once through both: each is a version of its own, and the last one is what runs on both."""

    def change(number: int) -> str:
        answer = (first, second)[number % 2].call("PATCH", "deployments/echo", {"code": CODE.format(number=number)})
        assert answer.status == 200, answer
        return str(answer.json["uuid"])

    with ThreadPoolExecutor(8) as threads:
        builds = list(threads.map(change, range(1, 21)))
    for build in builds:
        assert second.ended(build)["status"] == "Success"
    versions = first.call("GET", "deployments/echo/versions").json
    assert sorted(each["version"] for each in versions) == list(range(1, 22))
    last = [each.run("echo", {"n": 2}).json for each in (first, second)]
    assert last[0] == last[1]


def spread(first: Platform, second: Platform) -> None:
    """Runs through both, each read through the other, each with one record."""
    hosts = (first, second)
    with ThreadPoolExecutor(8) as threads:
        runs = list(threads.map(lambda n: hosts[n % 2].start_run("echo", {"n": n}), range(40)))
    for number, run in enumerate(runs):
        record = hosts[(number + 1) % 2].ended(run)
        assert (record["status"], record["output"][1], record["attempt"]) == ("Success", number, 1)
    assert len(set(runs)) == 40
