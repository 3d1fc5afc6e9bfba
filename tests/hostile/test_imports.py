"""E and R rows once more, at import: the zygote holds capabilities in its user namespace, and hostile code is in it.

Whatever a run may not do, the import of the same module may not do either. What it does may break its own deployment.
"""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import pytest

from tests.hostile.conftest import REACH, SYSCALLS, Arena
from tests.hostile.test_escape import E6, E7, E8, E9, E33, results

AT_IMPORT = "\ndef main(args, context):\n    return seen\n"
TRY = """
import os
seen = []
def attempt(what, change, *arguments):
    try:
        change(*arguments)
    except OSError:
        return
    seen.append(what)
def opened(path, flags):
    os.close(os.open(path, flags | os.O_NONBLOCK))
"""
"""Prefix for modules that try what must fail: `seen` has the words of what did not."""
REMOUNT, BIND, MOVE, PRIVATE, SHARED, RECURSIVE, OURS = 32, 4096, 8192, 1 << 18, 1 << 20, 16384, 2 | 4 | 8
WHERE = ("/", "/env", "/python", "/code", "/agent", "/usr/lib", "/usr/bin", "/tmp", "/dev/shm", "/dev/null", "/proc")


def at_import(arena: Arena, code: str, **settings: Any) -> Any:
    """What the module left in `seen`."""
    return results(arena, textwrap.dedent(code) + AT_IMPORT, **settings)


def allowed(arena: Arena, calls: dict[str, str], before: str = "") -> dict[str, str | None]:
    """Those of the system calls that were not refused, made at import."""
    body = "".join(f"seen[{name!r}] = {expression}\n" for name, expression in calls.items())
    found = at_import(arena, f"{SYSCALLS}\n{before}\nseen = {{}}\n{body}")
    return {name: error for name, error in found.items() if error not in ("EPERM", "EACCES", "ENOSYS")}


def test_e1_e2_an_import_finds_nothing_of_the_host(arena: Arena) -> None:
    """In a container /var and /srv are the image's own, and its /etc/shadow is there but not to be read."""
    canary = "canary-at-import-77b2"
    (arena.platform.data / "canary.txt").write_text(canary)
    code = f"""
    import os
    seen = [p for p in ["/root", "/home", "/var", "/sys", "/boot", "/srv", "/run"] if os.path.exists(p)]
    seen += ["/etc/shadow"] * os.access("/etc/shadow", os.R_OK)
    canary = "-".join(["canary", "at", "import", "77b2"])
    for folder, folders, files in os.walk("/"):
        if folder.startswith(("/proc", "/usr/lib", "/usr/bin", "/usr/share", "/python/lib", "/code")):
            folders[:] = []
            continue
        for name in files:
            path = os.path.join(folder, name)
            try:
                if os.path.isfile(path) and canary.encode() in open(path, "rb").read(1 << 20):
                    seen.append(path)
            except OSError:
                pass
    text = open("/proc/self/mountinfo").read()
    seen += [word for word in {[str(arena.platform.data), "faaspot"]!r} if word in text]
    """
    of_the_image = {"/var", "/srv"} if arena.runtime == "docker" else set()
    assert set(at_import(arena, code, timeout=60)) <= of_the_image


def test_e3_an_import_sees_itself_and_nothing_of_the_platform_in_it(arena: Arena) -> None:
    code = """
    text, pids = "", []
    for pid in {"1", *os.listdir("/proc")}:
        if pid.isdigit():
            for name in ["environ", "cmdline", "maps", "mountinfo", "mem"]:
                try:
                    with open(f"/proc/{pid}/{name}", "rb") as file:
                        pids.append(int(pid))
                        text += file.read(1 << 20).decode(errors="replace")
                except OSError:
                    pass
            for name in ["root", "cwd", "exe"]:
                try:
                    text += os.readlink(f"/proc/{pid}/{name}")
                except OSError:
                    pass
    for path in ["/proc/1/mem", "/proc/1/root/etc/shadow", "/proc/1/cwd", "/proc/1/fd/3"]:
        attempt(path, opened, path, os.O_RDONLY)
    seen = [sorted(set(pids)), os.getpid(), text, seen]
    """
    pids, own, text, opened = at_import(arena, TRY + textwrap.dedent(code))
    assert pids == [own]
    assert opened == []
    for secret in (arena.platform.token, "redis", str(arena.platform.data), "TOKEN", "PASSWORD", "faaspot"):
        assert secret not in text, secret


def test_e4_an_import_that_kills_all_that_it_can_fails_alone(arena: Arena) -> None:
    """Of its init, which the kernel spares, it knows the number; -1 is all others that it could send to."""
    code = """
    for pid in (1, os.getppid(), -1):
        try:
            os.kill(pid, 9)
        except ProcessLookupError:
            seen.append("nobody")
    """
    with arena.unharmed() as pids:
        found = at_import(arena, f"{REACH}\nseen = reach({pids})\n{textwrap.dedent(code)}")
        assert found in ([], ["nobody"])
        outcome = arena.attack("import os\nos.kill(os.getpid(), 9)\ndef main(args, context):\n    return 1\n")
        assert (outcome.status, outcome.reason) == ("Failure", "signal"), outcome


def test_e6_e41_no_mount_loses_its_flags_at_import(arena: Arena) -> None:
    """The host's pieces stay read-only, its proc stays small."""
    calls = {
        f"{place} {flags}": f"call('mount', None, os.path.realpath({place!r}).encode(), None, {flags}, None)"
        for place in WHERE
        for flags in (REMOUNT, REMOUNT | BIND, REMOUNT | BIND | OURS, PRIVATE, SHARED, MOVE)
    }
    assert allowed(arena, calls) == {}


def test_e6_e7_e8_e9_e33_e41_nothing_new_is_mounted_and_no_forbidden_call_made_at_import(arena: Arena) -> None:
    plain = "cgroup2 cgroup ramfs proc sysfs tmpfs mqueue devpts bpf devtmpfs debugfs tracefs securityfs fuse ext4 nfs"
    kinds = {**dict.fromkeys(plain.split(), ""), "overlay": "lowerdir=/env,upperdir=/tmp,workdir=/tmp"}
    calls = {
        f"{kind} {flags}": f"call('mount', b'none', b'/tmp', {kind.encode()!r}, {flags}, {options.encode()!r})"
        for kind, options in kinds.items()
        for flags in (0, OURS & ~8, OURS)
    }
    calls |= {
        f"{source} over {target} {flags}": f"call('mount', b{source!r}, b{target!r}, None, {flags}, None)"
        for source, target in (("/tmp", "/env"), ("/usr", "/tmp/at"))
        for flags in (BIND, BIND | RECURSIVE, BIND | OURS, MOVE)
    }
    calls |= {**E6, **E7, **E8, **E9, **E33, "cgroup namespace": "call('unshare', 0x02000000)"}
    for name in ("unshare mount", "setns", "clone pid"):  # its runs are in mount and pid namespaces of their own
        calls.pop(name)
    assert allowed(arena, calls, before="os.mkdir('/tmp/at')") == {}


def test_e6_a_mount_namespace_of_its_own_gives_an_import_no_more(arena: Arena) -> None:
    code = f"""
    seen = [call("unshare", 0x00020000 | 0x08000000)]
    for place in {WHERE!r}:
        place = os.path.realpath(place).encode()
        seen += [call("mount", None, place, None, 32 | 4096, None), call("mount", b"/tmp", place, None, 4096, None)]
    """
    assert set(at_import(arena, SYSCALLS + textwrap.dedent(code))[1:]) == {"EPERM"}


def test_e7_a_program_that_an_import_starts_has_no_capability_but_in_its_own_namespace(arena: Arena) -> None:
    code = """
    import subprocess, sys
    script = "import os; print([l for l in open('/proc/self/status') if l[:7] in ('CapEff:', 'CapAmb:')], os.getuid())"
    seen = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout
    """
    two_uids = arena.platform.setup == "root" and arena.runtime == "sandbox"
    found = at_import(arena, code)
    assert found.count("0000000000000000") == (1 if two_uids else 2), found


def test_e11_devices_are_only_the_harmless_ones_at_import(arena: Arena) -> None:
    code = """
    import stat
    for kind in (stat.S_IFBLK, stat.S_IFCHR):
        attempt("made", os.mknod, "/tmp/device", kind | 0o666, os.makedev(8, 0))
    for name in "kmsg mem kvm fuse sda vda tty console ptmx net/tun".split():
        attempt(name, opened, "/dev/" + name, os.O_RDWR)
    """
    assert at_import(arena, TRY + textwrap.dedent(code)) == []


def test_e12_e13_an_import_can_write_no_knob_and_no_cgroup(arena: Arena) -> None:
    """Neither those that there may be, nor in a proc or cgroup file system that it tries to mount."""
    core_pattern = Path("/proc/sys/kernel/core_pattern").read_text()
    code = (
        SYSCALLS
        + TRY
        + textwrap.dedent("""
        paths = ["/proc/sysrq-trigger", "/proc/1/uid_map", "/proc/1/oom_score_adj", "/proc/1/mem"]
        for kind, options in (("proc", None), ("cgroup2", None), ("cgroup", b"memory"), ("cgroup", b"devices")):
            place = "/tmp/" + kind + str(options)
            os.mkdir(place)
            call("mount", b"none", place.encode(), kind.encode(), 2 | 4 | 8, options)
        for top in ["/tmp", "/sys", *("/proc/" + name for name in ("sys", "irq", "fs", "bus", "driver"))]:
            for folder, folders, files in os.walk(top):
                paths += [os.path.join(folder, name) for name in files]
        paths += ["/proc/sys/kernel/core_pattern", "/sys/fs/cgroup/cgroup.procs", "/sys/fs/cgroup/memory/release_agent"]
        for path in paths:
            attempt(path, opened, path, os.O_WRONLY)
        for path, text in {"/proc/self/uid_map": b"0 0 1", "/proc/self/oom_score_adj": b"-1000"}.items():
            attempt(path, lambda: os.write(os.open(path, os.O_WRONLY), text))
        kinds = [line.split()[2] for line in open("/proc/self/mounts")]
        seen += [kind for kind in kinds if "cgroup" in kind or kind == "sysfs"]
    """)
    )
    assert at_import(arena, code) == []
    assert Path("/proc/sys/kernel/core_pattern").read_text() == core_pattern


def test_e15_e16_an_import_reaches_nothing_of_the_host(arena: Arena, host_listeners: dict[str, Any]) -> None:
    code = f"""
    import socket
    for family, address in [
        (socket.AF_UNIX, chr(0) + {host_listeners["abstract"]!r}), (socket.AF_UNIX, "/run/docker.sock"),
        (socket.AF_INET, ("127.0.0.1", {host_listeners["port"]})), (socket.AF_INET, ("127.0.0.1", {arena.platform.port})),
        (socket.AF_INET, ("169.254.169.254", 80)), (socket.AF_INET6, ("::1", {host_listeners["port"]})),
    ]:
        with socket.socket(family) as it:
            it.settimeout(2)
            attempt(repr(address), it.connect, address)
    """
    assert at_import(arena, TRY + textwrap.dedent(code), network="none") == []
    assert host_listeners["reached"] == []


def test_e19_e20_an_import_holds_two_channels_and_no_variable_of_the_host(arena: Arena) -> None:
    """To the spot, and to the init that makes its runs' mounts."""
    code = """
    import os, stat
    kinds = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            kinds[name] = stat.filemode(os.fstat(int(name)).st_mode)[0]
        except OSError:
            pass
    seen = [kinds, sorted(os.environ)]
    """
    kinds, environ = at_import(arena, code)
    assert kinds == {"0": "c", "1": "p", "2": "p", "3": "s", "4": "s"}
    assert environ == ["HOME", "LANG", "PATH", "TMPDIR", "TZ"]


def test_e21_e41_an_import_can_write_nothing_of_the_host(arena: Arena) -> None:
    """Even where the files belong to the uid that the platform runs as."""
    code = (
        SYSCALLS
        + TRY
        + textwrap.dedent(f"""
        import json, sys
        places = {WHERE[:7]!r} + ("/agent/agent", "/etc", os.path.dirname(json.__file__))
        places += tuple(path for path in sys.path if path and os.path.isdir(path))
        for place in places:
            call("mount", None, os.path.realpath(place).encode(), None, 32 | 4096, None)
            inside = [os.path.join(place, "main.py"), json.__file__, sys.executable, "/env/pyvenv.cfg"]
            for path in [place, *inside]:
                attempt("chmod " + path, os.chmod, path, 0o777)
            for name in ("sitecustomize.py", "evil.pth"):
                attempt("write " + place, opened, os.path.join(place, name), os.O_WRONLY | os.O_CREAT)
            attempt("rename " + place, os.rename, place, place + "-moved")
    """)
    )
    assert at_import(arena, code) == []
    assert not list(Path("/usr/lib").glob("evil.pth"))


def test_e22_e23_what_an_import_left_in_tmp_is_not_in_its_runs(arena: Arena) -> None:
    code = """
    import ctypes, os
    for path in ["/tmp/mine", "/dev/shm/mine"]:
        open(path, "w").close()
    libc = ctypes.CDLL(None)
    libc.shmget(4242, 4096, 0o1666)
    def main(args, context):
        found = [path for path in ["/tmp/mine", "/dev/shm/mine"] if os.path.exists(path)]
        return found + ["shm"] * (libc.shmget(4242, 4096, 0) != -1)
    """
    assert arena.attack(code).output == []


def test_e27_what_an_import_raises_is_never_unpickled(arena: Arena, tmp_path: Path) -> None:
    marker = tmp_path / "owned"
    outcome = arena.attack(f"""
    import os
    class Evil(Exception):
        def __reduce__(self):
            return (os.system, ("touch {marker}",))
        def __str__(self):
            raise self
    def main(args, context):
        return 1
    raise Evil()
    """)
    assert (outcome.status, outcome.reason) == ("Failure", "error"), outcome
    assert not marker.exists()


def test_r1_an_import_that_forks_without_end_fails_alone(arena: Arena) -> None:
    code = TRY + "while True:\n    attempt('fork', os.fork)\ndef main(args, context):\n    return 1\n"
    outcome = arena.attack(code, pids=20, timeout=3)
    assert outcome.status == "Failure", outcome


def test_r1_r2_processes_and_threads_of_an_import_are_limited(arena: Arena) -> None:
    code = """
    import os, threading, time
    forked = threads = 0
    try:
        while forked < 3000:
            if os.fork() == 0:
                time.sleep(600)
            forked += 1
    except OSError:
        pass
    try:
        while threads < 3000:
            threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
            threads += 1
    except RuntimeError:
        pass
    def main(args, context):
        return 1
    raise ValueError(str(forked + threads))
    """
    outcome = arena.attack(code, pids=20, memory=1024)
    assert outcome.status == "Failure", outcome
    assert outcome.reason != "error" or int(outcome.record["error"]["message"]) < 20 + 1024 + 64, outcome


def test_r3_an_import_that_takes_memory_stops_at_its_limit(arena: Arena) -> None:
    code = "held = []\nwhile True:\n    held.append(bytearray(8 << 20))\ndef main(args, context):\n    return 1\n"
    outcome = arena.attack(code, memory=64)
    assert outcome.status == "Failure", outcome
    assert outcome.reason in ("oom", "error"), outcome
    if outcome.reason == "error":
        assert outcome.record["error"]["type"] == "MemoryError", outcome


HOARD = """
import time
def hoard():
    held = bytearray(60 << 20)
    held[::4096] = bytes(len(held[::4096]))
    time.sleep(600)
"""
HOARDS = {
    "children": "os.fork()",
    "orphans": "(os.fork() or os.fork() and os._exit(0))",
    "hidden": "(call('setns', own, 0x20000000), call('unshare', 0x20000000), os.fork())[2]",
}
"""Hidden: each in a pid namespace of its own, as runs are."""


def anonymous_mb(pid: int) -> int:
    """Memory that a process has, of what it has in common with those that forked it only its part; 0 if it is gone."""
    lines = read(Path(f"/proc/{pid}/smaps_rollup")).splitlines()[1:]
    return int(dict(line.split(b":", 1) for line in lines).get(b"Pss_Anon", b"0 kB").split()[0]) // 1024


@pytest.mark.parametrize("how", HOARDS)
def test_r3_processes_of_an_import_have_a_memory_limit_together(arena: Arena, how: str) -> None:
    code = f"""
    own = os.open("/proc/self/ns/pid", os.O_RDONLY)
    for _ in range(16):
        if {HOARDS[how]} == 0:
            hoard()
    time.sleep(5)
    def main(args, context):
        return "imported"
    """
    before = arena.sandboxes()
    with arena.deployed(SYSCALLS + HOARD + textwrap.dedent(code), memory=64) as name:
        outcome = arena.judge(arena.platform.run(name))
        held = sum(anonymous_mb(pid) for pid in arena.since(before))
    # Where a cgroup counts, the kernel may choose a child for its kill, and the import goes on.
    if arena.platform.setup == "user":
        assert (outcome.status, outcome.reason) == ("Failure", "oom"), outcome
    assert held < 64 + 256 + 64


def test_r3_a_thread_of_an_import_takes_its_time_and_its_runs_hear_of_oom(arena: Arena) -> None:
    code = """
    import os, threading
    def later():
        time.sleep(1)
        for _ in range(12):
            if os.fork() == 0:
                hoard()
        time.sleep(600)
    threading.Thread(target=later, daemon=True).start()
    def main(args, context):
        time.sleep(6)
        return "lived"
    """
    outcome = arena.attack(HOARD + textwrap.dedent(code), memory=64)
    if arena.platform.setup == "user":
        assert (outcome.status, outcome.reason) == ("Failure", "oom"), outcome
        assert "import" in outcome.record["error"]["message"]


def test_r5_an_import_cannot_fill_more_than_its_scratch_space(arena: Arena) -> None:
    code = """
    import os
    seen = []
    for place in ["/tmp", "/dev/shm"]:
        for number in range(8):
            try:
                with open(f"{place}/{number}", "wb") as file:
                    for _ in range(64):
                        file.write(b"x" * (1 << 20))
            except OSError as error:
                seen.append(error.strerror)
    """
    found = at_import(arena, code, tmp=16, memory=256)
    assert set(found) <= {"No space left on device", "File too large"}
    assert found


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
