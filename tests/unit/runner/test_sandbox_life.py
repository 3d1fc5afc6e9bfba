"""How sandboxes come, end and leave nothing behind, on every Python and in every way of dying."""

from __future__ import annotations

import asyncio
import glob
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from faaspot_runner.errors import FeatureMissing, SandboxError
from faaspot_runner.sandbox import enclosure, pidfd
from faaspot_runner.sandbox.cgroups import Cgroups
from faaspot_runner.sandbox.namespaces import UidPairs
from tests.platforms import mount_table
from tests.unit.runner.sandboxes import GRADES, ORDINARY_UID, Stage, eventually

INNOCENT = "def main(args, context):\n    return 1"
PYTHONS = [
    path
    for version in ("3.8", "3.9", "3.10", "3.11", "3.12", "3.13")
    for path in sorted(glob.glob(f"/root/.pyenv/versions/{version}.*/bin/python3"))[:1]
] or [sys.executable]


@pytest.fixture(params=GRADES)
def stage(request: pytest.FixtureRequest) -> Iterator[Stage]:
    stage = Stage(request.param)
    yield stage
    if stage.process.poll() is None:
        stage.close()


def descendants(pid: int) -> set[int]:
    """Every process below this one, by the kernel's own lists."""
    found: set[int] = set()
    pending = [pid]
    while pending:
        one = pending.pop()
        for task in glob.glob(f"/proc/{one}/task/*/children"):
            try:
                born = {int(word) for word in Path(task).read_text().split()}
            except (FileNotFoundError, ProcessLookupError):
                continue
            pending.extend(born - found)
            found |= born
    return found


def children(pid: int) -> set[int]:
    """The direct ones: for a driver, its launcher."""
    lists = glob.glob(f"/proc/{pid}/task/*/children")
    return {int(word) for path in lists for word in Path(path).read_text().split()}


def living(pids: set[int]) -> set[int]:
    """Those that are there and no zombies."""
    return {pid for pid in pids if _state(pid) not in ("", "Z", "X")}


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def host() -> dict[str, Any]:
    """What must be equal before and after: mounts, cgroups and temporary files of ours."""
    return {
        "mounts": mount_table(),
        "cgroups": sorted(glob.glob("/sys/fs/cgroup/**/faaspot-test-*", recursive=True)),
        "files": sorted(glob.glob("/tmp/faaspot-process-*") + glob.glob("/tmp/kept")),
    }


def test_the_host_is_as_before_when_a_spot_has_stopped(stage: Stage) -> None:
    before = host()
    stage.run(INNOCENT)
    stage.run("import os\ndef main(args, context):\n    os.fork() or os.setsid()\n    os.abort()")
    stage.runs("raise ValueError")
    below = descendants(stage.process.pid)
    assert len(below) > 2
    stage.close()
    assert living(below) == set()
    after = host()
    assert after["mounts"] == before["mounts"]
    for kind in ("cgroups", "files"):  # of an earlier test's spot something may still be going
        assert set(after[kind]) <= set(before[kind]), kind


def test_everything_dies_with_a_killed_spot(stage: Stage) -> None:
    stage.run(INNOCENT)
    below = descendants(stage.process.pid)
    assert len(below) > 2
    stage.process.kill()
    stage.process.wait()
    assert eventually(lambda: not living(below), 2.0), living(below)
    for pipe in (stage.process.stdin, stage.process.stdout):
        assert pipe is not None
        pipe.close()
    # Its empty groups are for its successor of the same name to sweep.
    if stage.grade == "root" and (left := Cgroups.open(f"test-{stage.process.pid}")):
        assert left.sweep() == 0
        left.close()


def test_a_killed_launcher_is_replaced(stage: Stage) -> None:
    stage.run(INNOCENT)
    launcher = min(children(stage.process.pid))
    below = descendants(stage.process.pid)
    os.kill(launcher, signal.SIGKILL)
    assert eventually(lambda: not living(below), 2.0), "its sandboxes die with it"
    assert stage.output(INNOCENT + "\n") == 1


def test_a_zygote_that_dies_under_a_run_is_told_and_replaced(stage: Stage) -> None:
    code = """
    import os
    zygote = os.getpid()
    import threading, time
    def doom():
        time.sleep(0.4)
        if os.getpid() == zygote:
            os._exit(9)
    threading.Thread(target=doom, daemon=True).start()
    def main(args, context):
        time.sleep(args["sleep"])
        return 1
    """
    assert stage.run(code, args={"sleep": 30})["reason"] == "lost"
    assert stage.output(code, args={"sleep": 0}) == 1


FORGED = [
    '{"op":"ready"}', '{"op":"ready","import_ms":NaN}', '{"op":"ready","import_ms":"1"}', '{"op":"failed"}',
    '{"op":"ready","import_ms":1' + "0" * 400 + "}", '{"op":"failed","stage":"start","error":{"message":"m"}}',
    '{"op":"failed","stage":"start","errno":1}', '{"op":"ended","status":1' + "0" * 40 + "}",
    '{"op":"other"}', "{}", "x",
]  # fmt: skip


def test_an_import_that_writes_on_the_channel_ends_with_its_sandbox(stage: Stage) -> None:
    """It is in the zygote's own process and can write there: nothing of the sandbox may stay."""
    stage.run(INNOCENT)
    stage.ask(op="close")
    before = living(descendants(stage.process.pid))
    for word in FORGED:
        answer = stage.runs(f"import os, time\nos.write(3, {word.encode()!r})\ntime.sleep(60)", import_timeout=20)
        assert answer["failed"]["reason"] == "error", (word[:50], answer)
        assert answer["failed"]["type"] == "SandboxBroken"
    assert eventually(lambda: living(descendants(stage.process.pid)) <= before, 2.0)


def test_a_zygote_that_lies_about_a_run_ends_with_it(stage: Stage) -> None:
    """A thread of the import finds the worker's channel and speaks in the zygote's name."""
    code = """
    import os, socket, stat, struct, threading, time
    zygote = os.getpid()
    def is_a_workers(channel):
        pid, _, _ = struct.unpack("3i", channel.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        return pid == 0 and channel.type == socket.SOCK_SEQPACKET
    def lie_on(fd):
        if stat.S_ISSOCK(os.fstat(fd).st_mode):
            with socket.socket(fileno=os.dup(fd)) as channel:
                if is_a_workers(channel):
                    channel.send(b'{"op":"exited","id":"e0","status":1' + b"0" * 40 + b"}")
    def lie():
        while os.getpid() == zygote:
            for fd in range(4, 40):
                try:
                    lie_on(fd)
                except OSError:
                    pass
            time.sleep(0.01)
    threading.Thread(target=lie, daemon=True).start()
    def main(args, context):
        time.sleep(30)
    """
    outcome = stage.run(code)
    assert (outcome["status"], outcome["reason"]) == ("Failure", "broken")
    assert outcome["error"]["type"] == "SandboxBroken"
    assert stage.output(INNOCENT) == 1


def test_an_import_that_says_it_is_ready_is_believed_within_reason() -> None:
    async def story() -> None:
        from tests.unit.runner.sandbox_driver import Driver

        driver = Driver("process")
        await driver.connector.deploy(False)
        code = 'import os\nos.write(3, b\'{"op":"ready","import_ms":9e11}\')\n' + INNOCENT
        answer = await driver.run({"op": "run", "code": code, "python": python()})
        assert answer["outcomes"][0]["status"] == "Success"
        (sandbox,) = driver.sandboxes.values()
        assert 0 <= sandbox.start_ms <= sandbox.start_ms + sandbox.import_ms < 60_000
        await driver.close()

    asyncio.run(story())


def test_retire_lets_the_last_run_end() -> None:
    async def story() -> None:
        from tests.unit.runner.sandbox_driver import Driver

        driver = Driver("sandbox")
        await driver.connector.deploy(False)
        code = "import time\ndef main(args, context):\n    time.sleep(0.3)\n    return 1"
        request = {"op": "run", "code": code, "python": python()}
        await driver.run(request)
        (sandbox,) = driver.sandboxes.values()
        running = asyncio.ensure_future(driver.run(request))
        await asyncio.sleep(0.1)
        sandbox.retire()
        refused = await asyncio.to_thread(driver.once, sandbox, request, sandbox.spec.limits, 2)
        assert refused[0].reason == "refused"
        assert (await running)["outcomes"][0]["status"] == "Success"
        assert await pidfd.readable(sandbox.fileno(), 5)
        assert not sandbox.alive()
        await sandbox.stop()
        await sandbox.stop()
        await driver.close()

    asyncio.run(story())


def python() -> str:
    return "/usr/bin/python3" if os.path.exists("/usr/bin/python3") else os.path.realpath(sys.executable)


@pytest.mark.parametrize("path", PYTHONS)
@pytest.mark.skipif(os.geteuid() != 0 and "/root/" in PYTHONS[0], reason="the interpreters lie in root's home")
def test_every_python_runs_functions(path: str) -> None:
    """From a directory of mode 0700, with a libpython of its own."""
    code = """
    import asyncio, ctypes, sqlite3, ssl, sys, threading, zlib
    def main(args, context):
        return [sys.prefix, sys.executable, [entry for entry in sys.path if not entry.startswith(("/python", "/usr"))]]
    """
    stage = Stage("root" if os.geteuid() == 0 else "user")
    answer = stage.runs(code, python=path)
    stage.close()
    assert "outcomes" in answer, answer
    found = json.loads(answer["outcomes"][0]["output"])
    assert found == ["/env", "/env/bin/python", ["/code"]]


def test_an_environment_is_at_env_and_read_only(stage: Stage) -> None:
    with tempfile.TemporaryDirectory(prefix="faaspot-env-") as place:
        environment = Path(place)
        environment.chmod(0o755)
        program = "import sys; print('%d.%d' % sys.version_info[:2], end='')"
        version = subprocess.check_output([python(), "-c", program], text=True)
        packages = environment / f"lib/python{version}/site-packages"
        packages.mkdir(parents=True)
        (packages / "canned.py").write_text("VALUE = 7\n")
        (packages / "x.pth").write_text("import sys; sys.from_pth = 1\n")
        (environment / "pyvenv.cfg").write_text("home = /python/bin\ninclude-system-site-packages = false\n")
        (environment / "bin").mkdir()
        (environment / "bin/python").symlink_to(f"/python/bin/python{version}")
        code = """
        import canned, subprocess, sys
        def main(args, context):
            again = subprocess.run([sys.executable, "-c", "import canned; print(canned.VALUE)"], capture_output=True)
            return [canned.VALUE, canned.__file__, sys.from_pth, again.stdout.decode()]
        """
        value, file, pth, again = stage.output(code, environment=place, python=python())
    assert (value, pth, again) == (7, 1, "7\n")
    assert file.startswith("/env/lib/python3")


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="only root has uid pairs")
def test_uid_pairs_are_nobody_elses_and_come_back() -> None:
    one, other = UidPairs(), UidPairs()
    first, second = one.acquire(), other.acquire()
    assert {first.first, second.first} & {0} == set()
    assert abs(first.first - second.first) >= 2
    assert first.map() == f"0 {first.first} 1\n1000 {first.first + 1} 1\n"
    first.release()
    third = other.acquire()
    assert third.first != second.first
    second.release()
    third.release()


def test_host_root_is_in_no_sandbox(stage: Stage) -> None:
    """Seen from outside: the real uids of everything in it."""
    stage.run(INNOCENT)
    own = ORDINARY_UID if stage.grade == "user" and os.geteuid() == 0 else os.geteuid()
    launcher = children(stage.process.pid)
    inside = living(descendants(stage.process.pid)) - launcher
    uids = {Path(f"/proc/{pid}/status").read_text().split("Uid:\t")[1].split()[0] for pid in inside}
    assert "0" not in uids
    assert stage.grade == "root" or uids == {str(own)}


def test_what_the_kernel_lacks_is_named_with_what_to_do() -> None:
    message = {"stage": "seccomp filter", "errno": 22, "error": {"message": "seccomp filter: Invalid argument"}}
    error = enclosure.failed(message, "")
    assert isinstance(error, FeatureMissing)
    assert "CONFIG_SECCOMP_FILTER" in str(error)
    again = enclosure.failed({**message, "errno": 12}, "log")
    assert type(again) is SandboxError
    assert again.reason is None
    assert again.log == "log"


def test_a_command_runs_in_a_sandbox_of_its_own(stage: Stage) -> None:
    answer = stage.ask(op="command", argv=["/bin/sh", "-c", "id -u; pwd; ls /; exit 3"], timeout=10)
    assert (answer["reason"], answer["code"]) == ("error", 3)
    assert answer["log"].startswith("1000\n/tmp\n")


@pytest.mark.parametrize(
    ("script", "reason", "limits"),
    [
        ("while :; do :; done", "timeout", {}), ("kill -SEGV $$", "signal", {}), ("exec /nowhere", "error", {}),
        ("head -c 2000 /dev/zero >&3", "limit", {}), ("sleep 60 & exit 0", None, {}),
    ],
)  # fmt: skip
def test_a_command_ends_with_its_reason(script: str, reason: str | None, limits: dict[str, int], stage: Stage) -> None:
    answer = stage.ask(op="command", argv=["/bin/sh", "-c", script], timeout=0.7, limits=limits, output_limit=1000)
    assert answer["reason"] == reason, answer
