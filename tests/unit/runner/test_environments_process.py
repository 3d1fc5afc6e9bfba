"""Programs that a build starts outside a sandbox: bounded, confined, and dead when nobody waits for them."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path

import pytest

from faaspot_runner.environments import process
from faaspot_runner.environments.errors import BuildError
from faaspot_runner.environments.process import Confinement, Finished, Patience, run
from tests.platforms import mount_table

UID = 64_719
AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: only root can change its uid")


def started(tmp_path: Path, code: str, *, patience: Patience | None = None, uid: int | None = None) -> Finished:
    within = Confinement(uid=uid, shown={"work": tmp_path})
    python = os.path.realpath("/usr/bin/python3") if uid else sys.executable
    return run(
        [python, "-I", "-S", "-c", code],
        within=within,
        environ={"PATH": "/usr/bin:/bin", "WORK": str(within.seen("work"))},
        disk=tmp_path,
        patience=patience or Patience(deadline=time.monotonic() + 30),
    )


def test_status_and_both_streams_come_back(tmp_path: Path) -> None:
    finished = started(tmp_path, "import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)")
    assert finished == Finished(status=3, stdout="out\n", stderr="err\n")


def test_endless_output_is_cut_and_the_program_still_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "OUTPUT_BYTES", 1000)
    finished = started(tmp_path, "import os\nfor _ in range(1000): os.write(1, b'x' * 10000)")
    assert (finished.status, finished.stdout) == (0, "x" * 1000)


def test_it_sees_no_variable_but_those_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAASPOT_REDIS_PASSWORD", "secret")
    assert "secret" not in started(tmp_path, "import os; print(dict(os.environ))").stdout


def test_it_gets_no_descriptor_but_the_three(tmp_path: Path) -> None:
    with (tmp_path / "open").open("w") as file:
        os.set_inheritable(file.fileno(), True)
        listed = started(tmp_path, "import os; print(sorted(map(int, os.listdir('/proc/self/fd')))[:-1])").stdout
    assert json.loads(listed) == [0, 1, 2]


SPAWN = """
import os, time
if os.fork() == 0:
    open(os.path.join(os.environ["WORK"], "pid"), "w").write(str(os.getpid()))
time.sleep(600)
"""


def test_its_whole_group_dies_at_the_deadline(tmp_path: Path) -> None:
    with pytest.raises(BuildError) as caught:
        started(tmp_path, SPAWN, patience=Patience(deadline=time.monotonic() + 1))
    assert caught.value.reason == "timeout"
    pid = int((tmp_path / "pid").read_text())
    assert _gone(pid)


def _gone(pid: int) -> bool:
    deadline = time.monotonic() + 5
    while Path(f"/proc/{pid}").exists() and _state(pid) != "Z":
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"


def test_closing_its_streams_does_not_outlast_the_deadline(tmp_path: Path) -> None:
    with pytest.raises(BuildError) as caught:
        started(
            tmp_path,
            "import os, time; os.closerange(0, 3); time.sleep(600)",
            patience=Patience(deadline=time.monotonic() + 1),
        )
    assert caught.value.reason == "timeout"


def test_cancelling_ends_it(tmp_path: Path) -> None:
    cancelled = threading.Event()
    cancelled.set()
    patience = Patience(deadline=time.monotonic() + 60, cancelled=cancelled.is_set)
    with pytest.raises(BuildError) as caught:
        started(tmp_path, "import time; time.sleep(600)", patience=patience)
    assert caught.value.reason == "cancelled"


def test_a_nearly_full_disk_ends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_RESERVE_BYTES", 2**62)
    monkeypatch.setattr(process, "_RESERVE_SHARE", 1.1)
    with pytest.raises(BuildError, match="disk is full"):
        started(tmp_path, "import time; time.sleep(600)")


def test_it_has_no_new_privileges(tmp_path: Path) -> None:
    assert "NoNewPrivs:\t1" in started(tmp_path, "print(open('/proc/self/status').read())").stdout


LOOK = """
import json, os
told = {"uid": os.getresuid(), "gid": os.getresgid(), "groups": os.getgroups(), "work": os.listdir(os.environ["WORK"])}
told["capabilities"] = [line.split()[1] for line in open("/proc/self/status") if line.startswith("CapEff")]
for name in ("/etc/faaspot-test", os.environ["WORK"] + "/new", os.environ["WORK"] + "/../new", "/root/x"):
    try:
        open(name, "w")
        told[os.path.basename(name) + str(len(name))] = "written"
    except OSError as error:
        told[os.path.basename(name) + str(len(name))] = error.strerror
print(json.dumps(told))
"""


@pytest.mark.root
@AS_ROOT
def test_as_root_it_is_an_ordinary_uid_that_reaches_its_place_through_closed_directories(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    place = closed / "place"
    place.mkdir(parents=True)
    (place / "here").touch()
    closed.chmod(0o700)
    before = mount_table()
    told = json.loads(started(place, LOOK, uid=UID).stdout)
    assert mount_table() == before
    assert told.pop("uid") == told.pop("gid") == [UID, UID, UID]
    assert told.pop("groups") == []
    assert told.pop("work") == ["here"]
    assert told.pop("capabilities") == ["0000000000000000"]
    assert "written" not in told.values()


@pytest.mark.root
@AS_ROOT
def test_as_root_it_dies_with_the_thread_that_waits_for_it(tmp_path: Path) -> None:
    """Its death signal survives the change of uid, which clears one that was set before."""
    code = "import ctypes; n = ctypes.c_int(); ctypes.CDLL(None).prctl(2, ctypes.byref(n)); print(n.value)"
    assert started(tmp_path, code, uid=UID).stdout == "9\n"
