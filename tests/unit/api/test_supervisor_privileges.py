"""What a child of the supervisor becomes: whom it dies with, what it sees, what it cannot get back."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from faaspot_api.supervisor import privileges
from faaspot_api.supervisor.privileges import Cover, NotPreparedError, Plan, covers
from tests.platforms import eventually, mount_table

UID = 61_990
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: is about what root gives up")


def run(plan: Plan, *command: str) -> subprocess.CompletedProcess[str]:
    prepared = [sys.executable, "-I", "-S", privileges.__file__, plan.text(), *command]
    return subprocess.run(prepared, capture_output=True, text=True, check=False, timeout=30)


def interpreter() -> tuple[str, ...]:
    return (sys.executable, sys.base_prefix, sys.prefix)


def report(plan: Plan, code: str) -> Any:
    """What `code` prints as JSON, run under `plan` by a plain interpreter."""
    done = run(plan, sys.executable, "-I", "-S", "-c", code)
    assert done.returncode == 0, done
    return json.loads(done.stdout)


@pytest.fixture
def home() -> Iterator[Path]:
    """A closed directory, as root's home is, inside a directory that is open."""
    outer = Path(tempfile.mkdtemp(prefix="faaspot-tests-"))
    outer.chmod(0o755)
    closed = outer / "closed"
    closed.mkdir(mode=0o700)
    yield closed
    shutil.rmtree(outer)


def test_a_plan_survives_its_text() -> None:
    plan = Plan(parent=1, death_signal=15, uid=7, needed=("/a", "/b c"))
    assert Plan.of(plan.text()) == plan


def test_an_ordinary_child_keeps_its_uid_and_loses_its_parent_never() -> None:
    done = run(Plan(parent=os.getpid()), "/bin/sh", "-c", "id -u; pwd; umask")
    assert done.stdout.split() == [str(os.geteuid()), "/", "0077"]


def test_it_does_not_start_when_the_parent_has_gone_already() -> None:
    done = run(Plan(parent=1), "/bin/echo", "ran")
    assert done.returncode == privileges.CANNOT_RUN
    assert done.stdout == ""
    assert "has gone" in done.stderr


def test_a_command_that_is_not_there_is_named() -> None:
    done = run(Plan(parent=os.getpid()), "/nonexistent/program")
    assert done.returncode == privileges.CANNOT_RUN
    assert "/nonexistent/program" in done.stderr


@pytest.mark.parametrize("uid", [None, pytest.param(UID, marks=needs_root)])
def test_it_dies_with_its_parent(uid: int | None) -> None:
    code = (
        "import os, subprocess, sys\n"
        f"from faaspot_api.supervisor.privileges import Plan\n"
        f"plan = Plan(parent=os.getpid(), uid={uid!r}, needed={interpreter()!r})\n"
        f"child = subprocess.Popen([sys.executable, '-I', '-S', {privileges.__file__!r}, plan.text(), '/bin/sh', '-c',"
        " 'echo $$; exec sleep 1000'])\n"
        "child.wait()\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    eventually(lambda: not Path(f"/proc/{child}").exists(), 5, "the child is gone, too")


@needs_root
def test_the_uid_is_dropped_for_good() -> None:
    plan = Plan(parent=os.getpid(), uid=UID, needed=interpreter())
    code = (
        "import os, json; status = dict(line.split(':\\t') for line in open('/proc/self/status').read().splitlines()"
        " if ':\\t' in line); print(json.dumps([os.getresuid(), os.getresgid(), os.getgroups(),"
        " status['NoNewPrivs'], status['CapEff'], status['CapPrm']]))"
    )
    none = "0" * 16
    assert report(plan, code) == [[UID] * 3, [UID] * 3, [], "1", none, none]


@needs_root
def test_a_closed_directory_shows_only_what_is_needed(home: Path) -> None:
    for name in ("needed/deep/tree", "secret"):
        (home / name).mkdir(parents=True)
    (home / "needed/deep/tree/file").write_text("here")
    (home / "needed/other").write_text("not here")
    (home / "key").write_text("one file")
    (home / "link").symlink_to("needed/deep/tree")
    needed = (*interpreter(), str(home / "link" / "file"), str(home / "needed/deep/tree"), str(home / "key"))
    plan = Plan(parent=os.getpid(), uid=UID, needed=needed)
    code = (
        f"import os, json; home = {str(home)!r}; print(json.dumps([sorted(os.listdir(home)),"
        " os.listdir(home + '/needed'), open(home + '/link/file').read(), open(home + '/key').read()]))"
    )
    before = mount_table()
    assert report(plan, code) == [["key", "link", "needed"], ["deep"], "here", "one file"]
    assert mount_table() == before


@needs_root
def test_the_cover_is_read_only_and_what_it_holds_keeps_its_owner(home: Path) -> None:
    own = home / "data" / "db"
    own.mkdir(parents=True)
    os.chown(own, UID, UID)
    plan = Plan(parent=os.getpid(), uid=UID, needed=(*interpreter(), str(own)))
    done = run(plan, "/bin/sh", "-c", f"echo kept > {own}/file; echo no > {home}/file; echo no > {home}/data/file")
    assert done.stderr.count("Read-only file system") == 2
    assert (own / "file").read_text() == "kept\n"
    assert not (home / "file").exists()


@needs_root
def test_a_tree_that_the_uid_cannot_read_is_named_with_what_to_do(home: Path) -> None:
    (home / "tree").mkdir(mode=0o700)
    done = run(Plan(parent=os.getpid(), uid=UID, needed=(*interpreter(), str(home / "tree"))), "/bin/true")
    assert done.returncode == privileges.CANNOT_RUN
    assert f"chmod -R o+rX {home / 'tree'}" in done.stderr


def test_what_every_uid_reaches_needs_no_cover() -> None:
    assert covers(UID, ("/usr/bin", "/etc/passwd", "/does/not/exist")) == []


@needs_root
def test_nested_closed_directories_take_one_cover(home: Path) -> None:
    tree = home / "a" / "b"
    tree.mkdir(parents=True)
    (home / "a").chmod(0o700)
    assert covers(UID, (str(tree), str(tree / "x"))) == [Cover(directory=str(home), trees=(str(tree),), links=())]


@needs_root
def test_a_circle_of_links_is_an_error_not_a_hang(home: Path) -> None:
    (home / "one").symlink_to("two")
    (home / "two").symlink_to("one")
    with pytest.raises(NotPreparedError, match="too many symbolic links"):
        covers(UID, (str(home / "one"),))
