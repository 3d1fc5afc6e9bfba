"""`restart`: new children in place of the old while it serves, or the old ones where the new do not come up."""

from __future__ import annotations

import fcntl
import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from faaspot_api.settings import Settings
from faaspot_api.supervisor.directory import DataDirectory
from faaspot_api.supervisor.platform import Platform
from faaspot_api.supervisor.programs import Programs
from tests.platforms import eventually
from tests.unit.api.test_supervisor_platform import Supervised, up

__all__ = ["up"]
pytestmark = pytest.mark.slow


def restart(data: Path) -> tuple[int, str]:
    """The command's exit status and last words."""
    command = [sys.executable, "-m", "faaspot_api", "restart", "--data-dir", str(data)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stderr


def test_web_recorder_and_spots_are_new_and_the_rest_stays(up: Supervised) -> None:
    up.start()
    before = {word: up.children(word) for word in ("web", "recorder", "spot", "redis.conf")}
    supervisor, web = up.pid, up.get()
    assert restart(up.data) == (0, "faaspot: web processes, recorder and 1 spot are new\n")
    after = {word: up.children(word) for word in before}
    for word in ("web", "recorder", "spot"):
        assert len(after[word]) == 1
        assert after[word] != before[word]
    assert after["redis.conf"] == before["redis.conf"]
    assert (up.pid, set(up.spot_pids())) == (supervisor, {"127.0.0.2"})
    assert up.get() != web
    assert restart(up.data)[0] == 0, "and again"
    assert set(up.spot_pids()) == {"127.0.0.1"}


def test_web_processes_that_do_not_come_up_leave_the_old_ones_serving(up: Supervised) -> None:
    refuses = up.data / "run" / "refuses"  # where the service uid may look
    up.start(FAKE_REFUSES=str(refuses))
    before = {word: up.children(word) for word in ("web", "recorder", "spot")}
    refuses.touch()
    status, said = restart(up.data)
    assert (status, "not all was replaced: gunicorn does not start: this release is broken" in said) == (1, True)
    assert {word: up.children(word) for word in before} == before
    assert up.get() == before["web"][0]
    refuses.unlink()
    assert restart(up.data)[0] == 0, "it can be asked again"


def test_a_stop_in_the_middle_leaves_nothing(up: Supervised) -> None:
    up.start(FAKE_SPOT="stubborn")
    command = [sys.executable, "-m", "faaspot_api", "restart", "--data-dir", str(up.data)]
    asking = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    eventually(lambda: len(up.children("spot")) == 2, 20, "the new spot is up, the old one drains")
    left = [pid for word in ("web", "recorder", "spot", "redis.conf") for pid in up.children(word)]
    assert up.stop() == 0
    assert not [pid for pid in left if Path(f"/proc/{pid}").exists()]
    assert "the platform stopped meanwhile" in asking.communicate(timeout=20)[1]
    assert asking.returncode == 1


def test_where_no_platform_runs_it_says_so(tmp_path: Path) -> None:
    assert restart(tmp_path) == (2, f"faaspot: no platform runs on {tmp_path}: start it with fas up\n")


@pytest.mark.parametrize("held", [False, True])
def test_a_number_that_a_killed_platform_left_is_nobodys_whoever_has_it_now(tmp_path: Path, held: bool) -> None:
    """`held`: its Redis, which has the lock from it, lives on for a moment."""
    with subprocess.Popen(["sleep", "60"]) as stranger, (tmp_path / "lock").open("w") as lock:
        lock.write(f"{stranger.pid}\n")
        lock.flush()
        if held:
            fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            assert restart(tmp_path) == (2, f"faaspot: no platform runs on {tmp_path}: start it with fas up\n")
            assert stranger.poll() is None
        finally:
            stranger.kill()


def test_a_platform_that_is_still_starting_says_so_rather_than_nothing(tmp_path: Path) -> None:
    directory = DataDirectory(path=tmp_path, uid=None)
    programs = Programs(settings=Settings(data_dir=tmp_path), directory=directory, certificate=None)
    with socket.create_server(("127.0.0.1", 0)) as sock:
        Platform(programs, directory, None, sock, -1).restart()
    told = json.loads((tmp_path / "restart.json").read_text())
    assert told["problem"] == "the platform is still starting: ask again when it is ready"
