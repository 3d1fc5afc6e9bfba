"""E and R rows once more, at import: the zygote holds capabilities in its user namespace, and hostile code is in it.

Whatever a run may not do, the import of the same module may not do either. What it does may break its own deployment.
"""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import Any

import pytest

from tests.hostile.conftest import SYSCALLS, Arena
from tests.hostile.test_escape import E7, E8, E9, E33, host_listeners, results

__all__ = ["host_listeners"]

AT_IMPORT = "\nFOUND = collect()\ndef main(args, context):\n    return FOUND\n"
"""Appended to code that defines `collect()`."""


OWN_KNOBS = re.compile(r"/sys/(net/|fs/mqueue/|kernel/(msg|sem|shm|auto_msgmni|ns_last_pid$|pid_max$))")
"""Of its network, ipc and pid namespaces, in which it is alone."""


def at_import(arena: Arena, code: str, **settings: Any) -> Any:
    """What `collect()` of the code returned while the module was imported."""
    return results(arena, textwrap.dedent(code) + AT_IMPORT, **settings)


def test_e6_e41_an_import_can_remount_and_bind_nothing(arena: Arena) -> None:
    """Its mounts are of file systems of its own; the host's pieces stay read-only, its proc stays small."""
    code = SYSCALLS + textwrap.dedent("""
        MS_REMOUNT, MS_BIND, MS_MOVE, MS_PRIVATE, OURS = 32, 4096, 8192, 1 << 18, 2 | 4
        def collect():
            os.mkdir("/tmp/at")
            allowed = []
            for place in ["/", "/env", "/usr/bin", "/usr/lib", "/python", "/code", "/tmp", "/dev/null"]:
                for flags in (MS_REMOUNT, MS_REMOUNT | MS_BIND, MS_REMOUNT | MS_BIND | OURS, MS_PRIVATE, MS_MOVE):
                    if call("mount", None, place.encode(), None, flags, None) is None:
                        allowed.append(["remount", place, flags])
            for flags in (MS_BIND, MS_BIND | 16384, MS_BIND | OURS, MS_MOVE):
                if call("mount", b"/usr", b"/tmp/at", None, flags, None) is None:
                    allowed.append(["bind", flags])
            for kind in ("sysfs", "devtmpfs", "debugfs", "tracefs", "securityfs", "bpf", "fuse", "ext4", "nfs"):
                for flags in (0, OURS, OURS | 8):
                    if call("mount", b"none", b"/tmp/at", kind.encode(), flags, None) is None:
                        allowed.append([kind, flags])
            for kind in ("tmpfs", "ramfs", "overlay", "proc", "cgroup2"):
                if call("mount", b"none", b"/tmp/at", kind.encode(), 0, None) is None:
                    allowed.append([kind, 0])
            return allowed
    """)
    assert at_import(arena, code) == []


WRITABLE = """
    import os, sys, json
    def collect():
        written = []
        places = ["/", "/env", "/python", "/code", "/agent", "/usr/lib", "/usr/bin", "/etc", os.path.dirname(json.__file__)]
        places += [path for path in sys.path if path and os.path.isdir(path)]
        for place in places:
            for change in (lambda path: os.chmod(path, 0o777), lambda path: open(path + "/evil.pth", "w").close(),
                           lambda path: os.rename(path, path + "-moved")):
                try:
                    change(place)
                    written.append(place)
                except OSError:
                    pass
        return written
"""


def test_e21_e41_an_import_can_write_nothing_of_the_host(arena: Arena) -> None:
    """Even where the files belong to the uid that the platform runs as."""
    code = SYSCALLS + textwrap.dedent("""
        for place in [b"/env", b"/python", b"/usr/lib", b"/usr/bin"]:
            call("mount", None, place, None, 32 | 4096, None)
    """)
    found = at_import(arena, code + textwrap.dedent(WRITABLE))
    assert set(found) <= {"/", "/etc", "/agent", "/code", "/env", "/python"}  # what is of its own root's tmpfs
    assert not list(Path("/usr/lib").glob("evil.pth"))


def test_e7_e8_e9_e33_an_imports_system_calls_are_refused_too(arena: Arena) -> None:
    calls = {**E7, **E8, **E9, **E33}
    for name in ("unshare mount", "setns"):  # a zygote makes mount namespaces, and only with ipc together
        calls.pop(name)
    body = ", ".join(f"{name!r}: {expression}" for name, expression in calls.items())
    found = at_import(arena, f"{SYSCALLS}\ndef collect():\n    return {{{body}}}\n")
    found.pop("clone pid")  # its runs are in pid namespaces of their own
    allowed = {name: error for name, error in found.items() if error not in ("EPERM", "EACCES", "ENOSYS")}
    assert allowed == {}


def test_e12_e13_an_import_can_write_no_knob_through_a_proc_or_cgroup_of_its_own(arena: Arena) -> None:
    """The file systems of its own namespaces it may mount; what they show is the kernel's, to be read by anybody."""
    core_pattern = Path("/proc/sys/kernel/core_pattern").read_text()
    code = SYSCALLS + textwrap.dedent("""
        def collect():
            opened = []
            for kind, options in (("proc", None), ("cgroup2", None), ("cgroup", b"memory"), ("cgroup", b"devices")):
                place = "/tmp/" + kind + str(options)
                os.mkdir(place)
                call("mount", b"none", place.encode(), kind.encode(), 2 | 4 | 8, options)
                for folder, folders, files in os.walk(place):
                    if folder.count("/") > 5:
                        folders[:] = []
                    if kind == "proc" and folder == place:
                        folders[:] = ["sys", "irq", "fs", "bus", "driver"]
                        files = [name for name in files if name not in ("self", "thread-self")]
                    for name in files:
                        path = folder + "/" + name
                        try:
                            os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
                            opened.append(path)
                        except OSError:
                            pass
            return opened
    """)
    opened = at_import(arena, code)
    assert [path for path in opened if not OWN_KNOBS.search(path)] == []
    assert Path("/proc/sys/kernel/core_pattern").read_text() == core_pattern


def test_e3_e4_an_import_sees_and_signals_only_its_own_sandbox(arena: Arena) -> None:
    code = """
    import os
    def collect():
        text, pids = "", [int(name) for name in os.listdir("/proc") if name.isdigit()]
        for pid in pids:
            for name in ["environ", "cmdline", "maps", "mountinfo", "mem"]:
                try:
                    with open(f"/proc/{pid}/{name}", "rb") as file:
                        text += file.read(1 << 20).decode(errors="replace")
                except OSError:
                    pass
        opened = []
        for path in ["/proc/1/mem", "/proc/1/root/etc/shadow", "/proc/1/cwd", "/proc/1/fd/3"]:
            try:
                os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
                opened.append(path)
            except OSError:
                pass
        return {"pids": pids, "own": os.getpid(), "text": text, "opened": opened}
    """
    found = at_import(arena, code)
    assert set(found["pids"]) <= {1, found["own"]}
    assert found["opened"] == []
    for secret in (arena.platform.token, str(arena.platform.data), "PASSWORD", "redis"):
        assert secret not in found["text"]


@pytest.mark.parametrize("target", ["-1", "1", "os.getppid()"])
def test_e4_an_import_that_kills_all_that_it_can_fails_alone(arena: Arena, target: str) -> None:
    outcome = arena.attack(
        f"import os\nos.kill({target}, 9)\ndef main(args, context):\n    return 'alive'\n", timeout=5
    )
    assert outcome.status in ("Success", "Failure")


def test_e15_e16_an_import_reaches_nothing_of_the_host(arena: Arena, host_listeners: dict[str, Any]) -> None:
    code = f"""
    import socket
    def collect():
        found = []
        for family, address in [
            (socket.AF_UNIX, chr(0) + {host_listeners["abstract"]!r}), (socket.AF_UNIX, "/run/docker.sock"),
            (socket.AF_INET, ("127.0.0.1", {host_listeners["port"]})), (socket.AF_INET, ("127.0.0.1", {arena.platform.port})),
            (socket.AF_INET, ("169.254.169.254", 80)), (socket.AF_INET6, ("::1", {host_listeners["port"]})),
        ]:
            with socket.socket(family) as it:
                it.settimeout(2)
                try:
                    it.connect(address)
                    found.append(repr(address))
                except OSError:
                    pass
        return found
    """
    assert at_import(arena, code, network="none") == []
    assert host_listeners["reached"] == []


def test_e19_e20_an_import_holds_two_channels_and_no_variable_of_the_host(arena: Arena) -> None:
    code = """
    import os
    def collect():
        return {"fds": {name: os.readlink("/proc/self/fd/" + name) for name in os.listdir("/proc/self/fd")
                        if os.path.exists("/proc/self/fd/" + name)}, "environ": dict(os.environ)}
    """
    found = at_import(arena, code)
    assert set(found["environ"]) == {"PATH", "HOME", "TMPDIR", "LANG", "TZ"}
    kinds = [target.partition(":")[0] for name, target in found["fds"].items() if name not in ("0", "1", "2")]
    assert kinds.count("socket") <= 2, found  # to the spot, and to the init that makes its runs' mounts
    assert set(kinds) <= {"socket", "/proc/2/fd"}, found


def test_r1_an_import_that_forks_without_end_fails_alone(arena: Arena) -> None:
    code = """
    import os
    while True:
        try:
            os.fork()
        except OSError:
            pass
    def main(args, context):
        return 1
    """
    outcome = arena.attack(code, pids=20, timeout=3)
    assert outcome.status == "Failure", outcome


def test_r3_an_import_that_takes_memory_stops_at_its_limit(arena: Arena) -> None:
    code = "held = []\nwhile True:\n    held.append(bytearray(8 << 20))\ndef main(args, context):\n    return 1\n"
    outcome = arena.attack(code, memory=64)
    assert outcome.status == "Failure", outcome
    assert outcome.reason in ("oom", "error"), outcome
    if outcome.reason == "error":
        assert outcome.record["error"]["type"] == "MemoryError", outcome


def test_r6_an_import_that_prints_without_end_is_no_burden(arena: Arena) -> None:
    """Beyond what is kept it is read slowly: the print waits, nobody else does."""
    code = "import sys\nsys.stdout.write('x' * (3 << 20))\ndef main(args, context):\n    return 1\n"
    outcome = arena.attack(code, timeout=30)
    assert (outcome.status, outcome.output) == ("Success", 1), outcome.record
    assert len(outcome.log) < 2 << 20


def test_r21_an_import_may_fork_and_leave_a_child_that_ends_with_its_sandbox(arena: Arena) -> None:
    code = """
    import os, time
    if os.fork() == 0:
        os.setsid()
        os.execv("/usr/bin/sleep", ["left-by-a-hostile-import", "600"])
    def main(args, context):
        return 1
    """
    assert arena.attack(code).output == 1
    left = [path for path in Path("/proc").glob("[0-9]*/cmdline") if b"left-by-a-hostile-import" in read(path)]
    assert left == []


def read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
