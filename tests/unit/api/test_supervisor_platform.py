"""The supervisor at work: real Redis, real process handling, stand-ins for the other children."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from faaspot_api.errors import Unavailable
from faaspot_api.queue.rq import RedisQueue
from faaspot_api.settings import Settings
from faaspot_runner.contract import REPORTS, SpotRequest, load
from tests.platforms import descendants, eventually, mount_table
from tests.unit.sdk.served import unused_port

pytestmark = pytest.mark.slow
RUNNER = Path(__file__).with_name("supervised.py")


class Supervised:
    """`up` in a process of its own, with stand-ins for what is not the supervisor's."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.data = home / "data"
        self.process: subprocess.Popen[bytes] | None = None
        self.ready: dict[str, Any] = {}

    def start(self, *arguments: str, expect: bool = True, **environ: str) -> Supervised:
        reading, writing = os.pipe()
        command = [sys.executable, str(RUNNER), "--data-dir", str(self.data), "--port", "0", "--grace", "3", *arguments]
        with (self.home / "console").open("ab") as console:
            self.process = subprocess.Popen(
                [*command, "--ready-fd", str(writing), "--parent-pid", str(os.getpid())],
                pass_fds=(writing,), stdout=console, stderr=console, env={**os.environ, **environ},
            )  # fmt: skip
        os.close(writing)
        with open(reading, "rb") as pipe:
            line = pipe.readline()
        assert bool(line) == expect, self.console()
        self.ready = json.loads(line) if line else {}
        return self

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def stop(self) -> int:
        assert self.process is not None
        if self.process.poll() is None:
            self.process.terminate()
        return self.process.wait(30)

    def console(self) -> str:
        return (self.home / "console").read_text()

    def get(self) -> int:
        """The answering web process."""
        address = self.ready["url"].removeprefix("http://")
        connection = http.client.HTTPConnection(address, timeout=10)
        connection.request("GET", "/")
        answer = int(connection.getresponse().read())
        connection.close()
        return answer

    def queue(self) -> RedisQueue:
        return RedisQueue.open(Settings.load({"data_dir": self.data}, {}))

    def spot_pids(self) -> dict[str, int]:
        return {seen.info.ip: seen.info.running for seen in self.queue().spots()}

    def spots_or_none(self) -> dict[str, int]:
        try:
            return self.spot_pids()
        except Unavailable:
            return {}

    def children(self, word: str) -> list[int]:
        """Pids of the children with `word` as an argument, or as the name of a file in one."""
        found = []
        for pid in descendants(self.pid):
            try:
                arguments = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
            except OSError:
                continue
            prepared = any(argument.endswith("privileges.py") for argument in arguments)
            if not prepared and any(argument.rpartition("/")[2] == word for argument in arguments):
                found.append(pid)
        return found

    def ask(self, number: int, action: Any, ip: str | None = None) -> dict[str, Any]:
        """Ask for a spot to be added or removed; the end as it stands on the reports stream."""
        request = SpotRequest(execution_id=f"spot-{number}", attempt=1, token="t", action=action, ip=ip)
        self.queue().enqueue_spot(request)
        return self.end_of(request)

    def end_of(self, request: SpotRequest) -> dict[str, Any]:
        client = self.queue()._redis

        def ended() -> Any:
            events = [load(fields[b"event"]) for _, fields in client.xrange(REPORTS)]
            mine = [event for event in events if getattr(event, "execution_id", "") == request.execution_id]
            return next((event for event in mine if event.kind == "ended"), None)

        event = eventually(ended, 20, f"{request.action} ends")
        assert event.token == request.token
        return {"status": event.status, "output": event.output and json.loads(event.output), "error": event.error}


@pytest.fixture
def up() -> Iterator[Supervised]:
    home = Path(tempfile.mkdtemp(prefix="faaspot-tests-"))
    supervised = Supervised(home)
    try:
        yield supervised
        if supervised.process is not None:
            supervised.stop()
    finally:
        if supervised.process is not None and supervised.process.poll() is None:
            supervised.process.kill()
            supervised.process.wait()
        shutil.rmtree(home)


def gone(pids: list[int]) -> bool:
    return not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_it_says_when_all_is_ready_and_leaves_nothing_when_stopped(up: Supervised) -> None:
    up.start()
    assert up.ready["first_token"] is True
    assert up.ready["data_dir"] == str(up.data)
    assert (up.data / "admin-token").read_text().strip() == up.ready["token"]
    assert (up.data / "admin-token").stat().st_mode & 0o777 == 0o600
    assert list(up.spot_pids()) == ["127.0.0.1"]
    assert up.get() > 0
    pids = descendants(up.pid)
    assert len(pids) == 4
    assert up.stop() == 0
    assert gone(pids)
    assert up.console() == ""
    assert not list(up.data.glob("redis/*.sock"))


def test_the_token_is_made_once_and_a_said_one_counts(up: Supervised) -> None:
    token = up.start().ready["token"]
    up.stop()
    again = up.start().ready
    assert (again["token"], again["first_token"]) == (token, False)
    up.stop()
    assert up.start("--token", "chosen-by-a-person").ready["token"] == "chosen-by-a-person"
    assert (up.data / "admin-token").read_text() == "chosen-by-a-person\n"


def test_a_token_that_can_be_guessed_is_refused_before_anything_is_made(up: Supervised) -> None:
    up.start("--token", "fifteen-letters", expect=False)
    assert up.stop() == 2
    (line,) = up.console().splitlines()
    assert "at least 16" in line
    assert "fifteen" not in line
    assert not up.data.exists()


def test_plain_http_that_others_reach_is_warned_of(up: Supervised) -> None:
    up.start("--host", "0.0.0.0")
    up.stop()
    (line,) = up.console().splitlines()
    assert line.startswith("faaspot: warning: plain HTTP on 0.0.0.0")
    up.start("--host", "0.0.0.0", "--trusted-proxies", "1").stop()
    assert len(up.console().splitlines()) == 1


def test_an_address_of_redis_that_is_none_is_one_clear_line(up: Supervised) -> None:
    up.start("--redis-url", "redis://host:port/0", expect=False)
    assert up.stop() == 2
    (line,) = up.console().splitlines()
    assert "--redis-url" in line


def test_a_redis_that_is_not_there_is_named_without_its_password(up: Supervised) -> None:
    up.start("--redis-url", f"redis://:s3cret@127.0.0.1:{unused_port()}/0", expect=False)
    assert up.stop() == 2
    (line,) = up.console().splitlines()
    assert "--redis-url redis://127.0.0.1:" in line
    assert "s3cret" not in line


@pytest.mark.parametrize("word", ["web", "recorder", "spot", "redis.conf"])
def test_a_killed_child_is_started_again(up: Supervised, word: str) -> None:
    up.start()
    (pid,) = up.children(word)
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: [new for new in up.children(word) if new != pid], 10, f"{word} runs again")
    assert up.get() > 0
    eventually(up.spots_or_none, 10, "the spot tells of itself")
    assert "was killed by SIGKILL; it starts again" in up.console()


def test_no_connection_is_refused_while_the_web_processes_are_away(up: Supervised) -> None:
    up.start()
    (pid,) = up.children("web")
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: gone([pid]), 5, "it is gone")
    assert up.get() != pid


def test_killed_itself_it_takes_all_along_and_the_next_start_works(up: Supervised) -> None:
    up.start()
    up.queue()._redis.set("kept", "1")
    pids = descendants(up.pid)
    os.kill(up.pid, signal.SIGKILL)
    up.stop()
    eventually(lambda: gone(pids), 5, "all children are gone")
    up.start()
    assert up.queue()._redis.get("kept") == b"1"


def test_a_second_platform_on_the_same_directory_is_one_clear_line(up: Supervised) -> None:
    first = up.start()
    second = Supervised(up.home)
    second.start(expect=False)
    assert second.stop() == 2
    (line,) = up.console().splitlines()
    assert f"process {first.pid}" in line
    assert str(up.data) in line


def test_a_damaged_list_of_spots_is_one_clear_line(up: Supervised) -> None:
    up.start().stop()
    (up.data / "spots.json").write_text("{")
    up.start(expect=False)
    assert up.stop() == 2
    (line,) = up.console().splitlines()
    assert "spots.json cannot be read" in line


def test_a_port_in_use_leaves_no_trace(up: Supervised) -> None:
    other = Supervised(up.home)
    up.start()
    port = up.ready["url"].rsplit(":", 1)[1]
    other.data = up.home / "other"
    other.start("--port", port, expect=False)
    assert other.stop() == 2
    assert not other.data.exists()
    assert up.console().splitlines() == [f"faaspot: port {port} on 127.0.0.1 is in use: choose another --port"]


def test_a_spot_that_cannot_work_here_ends_the_start_with_its_own_words(up: Supervised) -> None:
    up.start(expect=False, FAKE_SPOT="refuses")
    assert up.stop() == 2
    assert "no user namespaces: sysctl" in up.console().splitlines()[-1]
    assert gone(descendants(up.pid))


def test_spots_are_added_replaced_and_removed_and_kept_through_a_restart(up: Supervised) -> None:
    up.start()
    assert up.ask(1, "add") == {"status": "Success", "output": "127.0.0.2", "error": None}
    assert set(up.spot_pids()) == {"127.0.0.1", "127.0.0.2"}
    assert up.ask(2, "replace", "127.0.0.1")["output"] == "127.0.0.3"
    assert set(up.spot_pids()) == {"127.0.0.2", "127.0.0.3"}
    assert up.ask(3, "refresh", "all")["output"] == "127.0.0.2, 127.0.0.3"
    assert up.ask(4, "remove")["output"] == "127.0.0.3"
    assert up.ask(5, "remove", "127.0.0.7")["status"] == "Failure"
    up.stop()
    up.start()
    assert set(up.spot_pids()) == {"127.0.0.2"}
    assert up.ask(6, "remove")["output"] == "127.0.0.2"
    assert up.spot_pids() == {}


def test_a_request_survives_the_supervisor_and_is_done_once(up: Supervised) -> None:
    up.start()
    request = SpotRequest(execution_id="spot-1", attempt=1, token="t", action="add")
    up.queue().enqueue_spot(request)
    eventually(lambda: "spot-1" in (up.data / "spots.json").read_text(), 10, "it is begun")
    os.kill(up.pid, signal.SIGKILL)
    up.stop()
    up.start()
    assert up.end_of(request)["output"] == "127.0.0.2"
    assert set(up.spot_pids()) == {"127.0.0.1", "127.0.0.2"}


def test_the_second_start_is_quick(up: Supervised) -> None:
    up.start().stop()
    began = time.monotonic()
    up.start()
    assert time.monotonic() - began < 3.0


def test_secrets_stand_in_no_argument_list(up: Supervised) -> None:
    up.start("--redis-password", "")
    secrets = [(up.data / "admin-token").read_text().strip(), (up.data / "keys/redis-password").read_text().strip()]
    for pid in [up.pid, *descendants(up.pid)]:
        line = Path(f"/proc/{pid}/cmdline").read_text()
        assert not any(secret in line for secret in secrets)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: is about what root gives up")
def test_started_as_root_only_supervisor_and_spot_are(up: Supervised) -> None:
    up.start()
    before = mount_table()
    owners = {
        word: Path(f"/proc/{up.children(word)[0]}").stat().st_uid for word in ("web", "recorder", "redis.conf", "spot")
    }
    assert owners == {"web": 61990, "recorder": 61990, "redis.conf": 61990, "spot": 0}
    up.stop()
    assert mount_table() == before


def test_a_second_signal_hastens(up: Supervised) -> None:
    up.start("--grace", "60", FAKE_SPOT="stubborn")
    pids = descendants(up.pid)
    process = up.process
    assert process is not None
    began = time.monotonic()
    process.terminate()
    eventually(lambda: process.terminate() or process.poll() is not None, 20, "it ends before the grace is over")
    assert process.returncode == 0
    assert time.monotonic() - began < 20
    assert gone(pids)


def test_runs_in_flight_are_what_a_stop_says_it_waits_for(up: Supervised) -> None:
    up.start("--grace", "60", FAKE_SPOT="stubborn", FAKE_RUNNING="3")
    assert up.process is not None
    up.process.terminate()
    eventually(lambda: "waiting for 3 runs, up to 60 s; Ctrl-C again stops now" in up.console(), 10, "it says so")
    eventually(lambda: up.process.terminate() or up.process.poll() is not None, 20, "it stops now")
    assert len(up.console().splitlines()) == 1


PARENT = """
import os, subprocess, sys
child = subprocess.Popen([*sys.argv[1:], "--parent-pid", str(os.getpid())], stdin=subprocess.DEVNULL)
print(child.pid, flush=True)
child.wait()
"""


def test_the_death_of_its_parent_stops_it_at_once_and_the_next_start_has_the_directory(up: Supervised) -> None:
    command = [sys.executable, str(RUNNER), "--data-dir", str(up.data), "--port", "0", "--grace", "60"]
    environ = {**os.environ, "FAKE_SPOT": "stubborn"}
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environ
    )
    with parent:
        assert parent.stderr is not None
        assert "ready at" in parent.stderr.readline()
        pids = descendants(parent.pid)
        parent.kill()
    up.start()  # it waits for one that is on its way out
    eventually(lambda: gone(pids), 5, "the last of them ends")


def test_a_start_during_a_stop_says_that_it_is_one(up: Supervised) -> None:
    first = up.start("--grace", "60", FAKE_SPOT="stubborn")
    assert first.process is not None
    first.process.terminate()
    eventually(lambda: "stopping" in (up.data / "lock").read_text(), 10, "it is stopping")
    second = Supervised(up.home)
    second.start(expect=False)
    assert second.stop() == 2
    assert f"process {first.pid}) on {up.data} is stopping" in up.console()
    eventually(lambda: first.process.terminate() or first.process.poll() is not None, 20, "it stops now")


def test_the_grace_is_the_longest_wait_for_a_spot(up: Supervised) -> None:
    up.start("--grace", "0", FAKE_SPOT="stubborn")
    pids = descendants(up.pid)
    assert up.stop() == 0
    assert gone(pids)


def test_the_token_reaches_the_web_processes_by_their_standard_input(up: Supervised) -> None:
    up.start()
    assert up.ready["token"] in (up.data / "logs" / "gunicorn.log").read_text()
    (web,) = up.children("web")
    assert up.ready["token"] not in Path(f"/proc/{web}/environ").read_text()


def test_large_bodies_do_not_stay_in_an_arena_for_each_thread(up: Supervised) -> None:
    up.start()
    (web,) = up.children("web")
    assert b"MALLOC_ARENA_MAX=2" in Path(f"/proc/{web}/environ").read_bytes().split(b"\0")


def test_an_early_signal_stops_a_start_cleanly(up: Supervised) -> None:
    process = subprocess.Popen(
        [sys.executable, str(RUNNER), "--data-dir", str(up.data), "--port", "0"], stderr=subprocess.DEVNULL
    )
    eventually(lambda: (up.data / "redis").exists(), 10, "the start is under way")
    pids = descendants(process.pid)
    process.terminate()
    assert process.wait(20) == 0
    assert gone(pids)
