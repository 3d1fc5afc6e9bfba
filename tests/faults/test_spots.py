"""Three hosts: API, PostgreSQL and Redis on one, a spot on each of the others.

A cable is pulled, a spot killed, everything restarted while it serves: nothing is lost, and nothing ends twice.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.faults.load import CODE, Load
from tests.hosts import Host, hosts, plug, pull
from tests.platforms import Platform, eventually
from tests.postgres_servers import BINARIES, MISSING, running_postgres
from tests.unit.runner.package_index import PackageIndex

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.skipif(BINARIES is None, reason=MISSING)]

NAP = """
import time

def main(args, context):
    time.sleep(args["seconds"])
    return context["word"]
"""
ENDED = ("Success", "Failure", "Cancelled")


class Spot:
    """A spot on another host, as `fas spots join` runs it."""

    def __init__(self, host: Host, ip: str, home: Path) -> None:
        self.host, self.ip, self.home = host, ip, home
        self.process: subprocess.Popen[bytes] | None = None

    def join(self, platform: Platform, token: str | None, environ: dict[str, str]) -> None:
        """Start it; returns at once."""
        url = f"http://{self.ip.rsplit('.', 1)[0]}.1:{platform.port}"
        command = [platform.command, "spots", "join", url, "--data-dir", str(self.home / "data")]
        command += ["--token", token] if token else []
        kept = {name: value for name, value in os.environ.items() if not name.startswith("FAASPOT_")}
        with self.host.entered(), (self.home / "log").open("a") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={**kept, **environ}
            )

    @property
    def text(self) -> str:
        return (self.home / "log").read_text()

    def end(self, number: signal.Signals) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        code = self.process.wait(60)
        self.process = None
        return code


@contextmanager
def cluster() -> Iterator[tuple[Platform, list[Host], list[Spot]]]:
    """A platform without spots of its own, and two spots that joined it by a token for nothing else."""
    with ExitStack() as stack:
        made = stack.enter_context(hosts(3))
        home = Path(tempfile.mkdtemp(prefix="faaspot-e2e-", dir="/tmp"))
        stack.callback(shutil.rmtree, home)
        stack.enter_context(made[0].entered())
        index = stack.enter_context(PackageIndex(host="10.77.1.1"))
        index.wheel("greeter", "1.0", {"greeter/__init__.py": "WORD = 'hello'\n"})
        options = ("--host", "0.0.0.0", "--spots-listen", "0.0.0.0:16380")
        database = stack.enter_context(running_postgres()).create("platform")
        environ = {"FAASPOT_LOCAL_SPOTS": "0", "FAASPOT_DATABASE_URL": database}
        platform = stack.enter_context(Platform("root", home, options, environ))
        token = platform.fas("tokens", "create", "hosts", "--role", "join").stdout.split()[-1]
        spots = []
        for number, host in enumerate(made[1:], 1):
            place = home / f"spot{number}"
            place.mkdir()
            spot = Spot(host, f"10.77.{number}.2", place)
            # Only the first one reaches the index.
            spot.join(platform, token, {"UV_DEFAULT_INDEX": index.url} if number == 1 else {})
            stack.callback(lambda spot=spot: spot.process and spot.end(signal.SIGKILL))
            spots.append(spot)
        for spot in spots:
            eventually(lambda spot=spot: status(platform, spot) == "online", 30, spot.text)
        yield platform, made, spots


def status(platform: Platform, spot: Spot) -> str:
    answer = platform.call("GET", f"spots/{spot.ip}")
    return str(answer.json["status"]) if answer.status == 200 else "unknown"


def bulk(platform: Platform, name: str, count: int, seconds: float) -> list[str]:
    answer = platform.call("POST", f"deployments/{name}/bulk_rpc/", [{"seconds": seconds}] * count)
    assert answer.status == 200, answer
    return list(answer.json)


def records(platform: Platform, ids: list[str]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for start in range(0, len(ids), 1000):
        found += platform.call("POST", "executions/bulk", ids[start : start + 1000]).json
    return found


def all_ended(platform: Platform, ids: list[str], seconds: float) -> list[dict[str, Any]]:
    def ended() -> list[dict[str, Any]] | None:
        found = records(platform, ids)
        return found if all(each["status"] in ENDED for each in found) else None

    with told(platform, ids):
        found: list[dict[str, Any]] = eventually(ended, seconds, "every accepted run ends")
    return found


@contextmanager
def told(platform: Platform, ids: list[str]) -> Iterator[None]:
    """What fails meanwhile tells where these runs and the spots stand."""
    try:
        yield
    except AssertionError as error:
        stand = Counter((each["status"], each["spot"], each["attempt"]) for each in records(platform, ids))
        raise AssertionError(f"{error}: {stand}\n{platform.call('GET', 'spots/').json}") from error


def again(platform: Platform, ids: list[str]) -> list[dict[str, Any]]:
    """The records that had to be started again."""
    return [each for each in records(platform, ids) if each["attempt"] > 1 and each["spot"]]


def run_on(platform: Platform, ids: list[str], *spots: Spot) -> None:
    """Return when some of them run on each of these spots."""

    def places() -> set[str]:
        return {each["spot"] for each in records(platform, ids) if each["status"] == "Started"}

    with told(platform, ids):
        eventually(lambda: places() == {spot.ip for spot in spots}, 20, "they run on these spots")


def workers(platform: Platform, spot: Spot) -> dict[str, int]:
    found: dict[str, int] = platform.call("GET", f"spots/{spot.ip}").json["workers"]
    return found


def ends(platform: Platform, name: str) -> int:
    """How many runs of a deployment reached their recorded end, as the platform counts."""
    text = platform.call("GET", f"{platform.url}/metrics").text
    found = re.findall(rf'faaspot_ended_total{{deployment="{name}",kind="run".*}} (\S+)', text)
    return sum(int(float(number)) for number in found)


def build_travels(platform: Platform, first: Spot, second: Spot) -> None:
    """What the first spot has built runs on the second one, which reaches no index."""
    platform.fas("spots", "drain", second.ip)
    eventually(lambda: status(platform, second) == "draining", 10, "it drains")
    platform.deploy(
        "greet", "import greeter\n\ndef main(args, context):\n    return greeter.WORD\n", requirements="greeter"
    )
    platform.fas("spots", "drain", second.ip, "--end")
    platform.fas("spots", "drain", first.ip)
    eventually(lambda: (status(platform, first), status(platform, second)) == ("draining", "online"), 10, "they follow")
    record = platform.ended(platform.start_run("greet"))
    assert (record["status"], record["output"], record["spot"]) == ("Success", "hello", second.ip)
    platform.fas("spots", "drain", first.ip, "--end")
    eventually(lambda: status(platform, first) == "online", 10, "it takes work again")


def it_follows_its_queue(platform: Platform, spot: Spot) -> list[str]:
    """While runs wait the spot gets more workers, up to its most, and at least so many as are wished."""
    platform.fas("spots", "update", "--ip", spot.ip, "--min", "1", "--max", "4")
    waiting = bulk(platform, "nap", 300, 2)
    eventually(lambda: workers(platform, spot)["background"] == 4, 30, "it has as many workers as it may")
    platform.fas("spots", "update", "--ip", spot.ip, "--min", "3", "--max", "4")
    eventually(lambda: workers(platform, spot)["sync"] == 3, 30, "it has as many as it must")
    return waiting


def killed_and_restarted(platform: Platform, killed: Spot, spots: tuple[Spot, ...]) -> list[str]:
    """A spot is killed, then API, recorder and one spot after the other are started anew, while callers never pause.

    Returns what they were told was accepted.
    """
    with Load(platform) as load:
        killed.end(signal.SIGKILL)
        said = platform.fas("restart", "--data-dir", str(platform.data)).stderr
        assert "web processes, recorder and 0 spots are new" in said
        for spot in spots:
            if spot.process is not None:
                assert spot.end(signal.SIGTERM) == 0, spot.text
            spot.join(platform, None, {})
            eventually(lambda spot=spot: status(platform, spot) == "online", 30, spot.text)
        more = load.answers["200"]
        eventually(lambda: load.answers["200"] > more + 50, 60, "the load goes on")
    assert load.wrong == []
    return load.accepted


def test_nothing_is_lost_when_a_cable_is_pulled_a_spot_is_killed_and_all_is_restarted() -> None:
    with cluster() as (platform, made, (first, second)):
        platform.deploy("nap", NAP, context={"word": "told"})
        platform.deploy("work", CODE)

        build_travels(platform, first, second)

        spread = all_ended(platform, it_follows_its_queue(platform, second), 60)
        assert {each["status"] for each in spread} == {"Success"}
        assert {each["output"] for each in spread} == {"told"}
        assert {each["spot"] for each in spread} == {first.ip, second.ip}

        cut = bulk(platform, "nap", 80, 4)
        run_on(platform, cut, first, second)
        pull(made[0], 1)
        eventually(lambda: status(platform, first) == "offline", 20, "the spot is offline")
        eventually(lambda: again(platform, cut), 40, "what ran there is tried again")
        plug(made[0], 1)
        eventually(lambda: status(platform, first) == "online", 30, "the spot is back")
        # More than the other spot holds: it would have them all before this one's workers have found back to Redis.
        killed = bulk(platform, "nap", 300, 4)
        run_on(platform, killed, first, second)
        work = killed_and_restarted(platform, second, (second, first))

        found = all_ended(platform, cut + killed, 90) + all_ended(platform, work, 30)
        failed = Counter(
            (each["reason"], each["spot"], each["attempt"]) for each in found if each["status"] != "Success"
        )
        assert not failed, failed
        assert again(platform, killed), "what ran where it was killed is tried again"
        assert records(platform, cut + killed + work) == found  # what came late has changed nothing
        assert ends(platform, "nap") == len(spread) + len(cut) + len(killed)
        assert ends(platform, "work") == len(work)
        assert "permission" not in (first.text + second.text).lower()
