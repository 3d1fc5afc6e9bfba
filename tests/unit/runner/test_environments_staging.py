"""Half-built directories: seen by nobody, swept when their builder is dead, left alone while it lives."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from faaspot_runner.environments import staging

HOLD = """
import sys
from pathlib import Path
from faaspot_runner.environments import staging
with staging.staged(Path(sys.argv[1])) as path:
    (path / "half").mkdir(mode=0o555)
    print(path, flush=True)
    sys.stdin.read()
"""


def builder(parent: Path) -> tuple[subprocess.Popen[str], Path]:
    """A process that is in the middle of building."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(parent)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def test_a_staged_directory_is_gone_afterwards(tmp_path: Path) -> None:
    with staging.staged(tmp_path) as path:
        (path / "closed").mkdir()
        (path / "closed" / "file").touch()
        (path / "closed").chmod(0o555)
    assert list(tmp_path.iterdir()) == []


def test_one_that_was_renamed_stays(tmp_path: Path) -> None:
    with staging.staged(tmp_path) as path:
        path.rename(tmp_path / "name")
    assert [entry.name for entry in tmp_path.iterdir()] == ["name"]


def test_a_sweep_takes_away_what_a_killed_builder_left(tmp_path: Path) -> None:
    process, path = builder(tmp_path)
    end(process)
    assert path.is_dir()
    staging.sweep(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_sweep_leaves_what_a_living_builder_works_on(tmp_path: Path) -> None:
    process, path = builder(tmp_path)
    try:
        staging.sweep(tmp_path)
        assert path.is_dir()
    finally:
        end(process)


def test_a_sweep_touches_nothing_that_is_published(tmp_path: Path) -> None:
    (tmp_path / "published").mkdir()
    staging.sweep(tmp_path)
    assert (tmp_path / "published").is_dir()


def test_removing_follows_no_link(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").touch()
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "link").symlink_to(tmp_path / "kept")
    staging.remove_tree(tmp_path / "tree")
    assert (tmp_path / "kept" / "file").exists()


def test_a_lock_is_held_by_one_thread_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    inside, most = [0], [0]

    def work() -> None:
        with staging.locked(path, wait=lambda: None):
            inside[0] += 1
            most[0] = max(most[0], inside[0])
            os.sched_yield()
            inside[0] -= 1
            path.unlink()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1]


def test_who_waits_for_a_lock_may_give_up(tmp_path: Path) -> None:
    def give_up() -> None:
        raise TimeoutError

    with (
        staging.locked(tmp_path / "lock", wait=lambda: None),
        pytest.raises(TimeoutError),
        staging.locked(tmp_path / "lock", wait=give_up),
    ):
        pytest.fail("it was held twice")
