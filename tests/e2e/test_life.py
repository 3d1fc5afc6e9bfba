"""Start, stop, start again; clear lines for what is in the way; nothing left on the machine."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.platforms import ORDINARY_UID, SETUPS, Platform, Traces, descendants, eventually, platform, user_python

CODE = "import os\ndef main(args, context):\n    return 'ran ' + args['n']\n"


@pytest.fixture(params=SETUPS)
def setup(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def home(setup: str) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="faaspot-e2e-", dir="/tmp") as name:
        if setup == "user" and os.geteuid() == 0:
            os.chown(name, ORDINARY_UID, ORDINARY_UID)
        yield Path(name)


@pytest.mark.alone
def test_the_machine_is_as_before_when_the_platform_has_stopped(setup: str) -> None:
    user_python()
    before = Traces.now()
    with platform(setup) as running:
        running.deploy("trace", CODE)
        assert running.run("trace", {"n": "1"}).json == "ran 1"
        assert running.process is not None
        pids = [running.process.pid, *descendants(running.process.pid)]
        assert len(pids) > 5
        assert running.stop() == 0
    assert [pid for pid in pids if Path(f"/proc/{pid}").exists()] == []
    assert Traces.since(before) == []


def test_everything_is_still_there_after_a_restart(setup: str) -> None:
    with platform(setup) as running:
        running.deploy("kept", CODE)
        execution = running.run("kept", {"n": "1"}).headers["Execution-Id"]
        token = running.token
        running.restart()
        assert running.token == token
        assert running.record(execution)["output"] == "ran 1"
        assert running.run("kept", {"n": "2"}).json == "ran 2"
        assert token not in running.console()


def test_a_killed_fas_up_takes_its_children_along_and_starts_again(setup: str) -> None:
    with platform(setup) as running:
        running.deploy("killed", CODE)
        assert running.run("killed", {"n": "1"}).json == "ran 1"
        running.deploy("long", "import time\ndef main(args, context):\n    time.sleep(50)\n")
        execution = running.start_run("long")
        eventually(lambda: running.record(execution)["status"] == "Started", 20, "a run is in flight")
        assert running.process is not None
        pids = descendants(running.process.pid)
        running.process.send_signal(signal.SIGKILL)
        running.process.wait()
        eventually(lambda: not [pid for pid in pids if Path(f"/proc/{pid}").exists()], 15, "its children end, too")
        (running.home / "up.log").unlink()
        running.start()
        assert running.run("killed", {"n": "2"}).json == "ran 2"


def up(setup: str, home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    candidate = Platform(setup, home)
    return subprocess.run(
        [candidate.command, "up", *arguments],
        capture_output=True, text=True, check=False, timeout=60, cwd=home, env=candidate._environ(), **candidate._who(),
    )  # fmt: skip


def one_clear_line(done: subprocess.CompletedProcess[str], *words: str) -> None:
    assert done.returncode not in (0, None)
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, done
    for word in words:
        assert word in lines[0], done
    assert "Traceback" not in done.stderr


def test_a_port_or_directory_in_use_or_foreign_is_one_clear_line(setup: str, home: Path) -> None:
    with platform(setup) as running:
        one_clear_line(up(setup, home, "--data-dir", str(home / "d"), "--port", str(running.port)), str(running.port))
        assert not (home / "d").exists()
        one_clear_line(up(setup, home, "--data-dir", str(running.data), "--port", "0"), str(running.data))
    foreign = home / "foreign"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("mine")
    if setup == "user" and os.geteuid() == 0:
        os.chown(foreign, ORDINARY_UID, ORDINARY_UID)
    one_clear_line(up(setup, home, "--data-dir", str(foreign), "--port", "0"), str(foreign))
    assert [path.name for path in foreign.iterdir()] == ["thesis.txt"]


def test_started_as_root_only_the_spot_keeps_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root: is about what root gives up")
    with platform("root") as running:
        assert running.process is not None
        uids: dict[str, set[int]] = {}
        for pid in descendants(running.process.pid):
            line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
            kind = next((word for word in ("gunicorn", "valkey", "recorder", "spot") if word in line), None)
            if kind:
                uids.setdefault(kind, set()).add(Path(f"/proc/{pid}").stat().st_uid)
        assert set(uids) >= {"gunicorn", "recorder"}
        assert 0 not in uids["gunicorn"] | uids["recorder"] | uids.get("valkey", {1})


def test_doctor_lists_every_feature(setup: str, home: Path) -> None:
    candidate = Platform(setup, home)
    done = subprocess.run(
        [candidate.command, "doctor"],
        capture_output=True, text=True, check=False, timeout=60, cwd=home, env=candidate._environ(), **candidate._who(),
    )  # fmt: skip
    assert done.returncode == 0, done
    for word in ("namespace", "seccomp", "cgroup", "rlimit" if setup == "user" else "memory"):
        assert word in done.stdout, done
