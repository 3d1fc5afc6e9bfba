"""What a function tries while its module is imported: in the zygote, which all of its later runs are forked from."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import pytest

from tests.hostile.conftest import REACH, SYSCALLS, Arena

TELL = "\n\ndef main(args, context):\n    return seen\n"
WHERE = ("/env", "/python", "/code", "/agent", "/", "/usr/lib", "/usr/bin", "/tmp", "/dev/shm", "/proc")


def seen_at_import(arena: Arena, code: str, **settings: Any) -> Any:
    """What the module left in `seen`."""
    outcome = arena.attack(textwrap.dedent(code) + TELL, **settings)
    assert outcome.status == "Success", outcome
    return outcome.output


def refused(arena: Arena, calls: dict[str, str]) -> dict[str, str]:
    """Those of the system calls that were not refused, made at import."""
    body = "".join(f"seen[{name!r}] = {expression}\n" for name, expression in calls.items())
    found = seen_at_import(arena, SYSCALLS + "\nseen = {}\n" + body)
    return {name: error for name, error in found.items() if error not in ("EPERM", "ENOSYS")}


def test_no_mount_loses_its_flags(arena: Arena) -> None:
    calls = {
        f"{name} {place}": f"call('mount', None, os.path.realpath({place!r}).encode(), None, {flags}, None)"
        for place in WHERE
        for name, flags in {"remount": 32, "bind remount": 32 | 4096, "private": 1 << 18, "shared": 1 << 20}.items()
    }
    assert refused(arena, calls) == {}


def test_nothing_new_is_mounted(arena: Arena) -> None:
    kinds = {
        **dict.fromkeys(("cgroup2", "cgroup", "ramfs", "proc", "sysfs", "tmpfs", "mqueue", "devpts", "bpf"), ""),
        "overlay": "lowerdir=/env,upperdir=/tmp,workdir=/tmp",
    }
    calls = {
        f"{kind} {flags}": f"call('mount', b'none', b'/tmp', {kind.encode()!r}, {flags}, {options.encode()!r})"
        for kind, options in kinds.items()
        for flags in (0, 6, 14)
    }
    calls |= {
        "bind over /env": "call('mount', b'/tmp', b'/env', None, 4096, None)",
        "move": "call('mount', b'/tmp', b'/env', None, 8192, None)",
        "umount": "call('umount2', b'/proc', 2)",
        "pivot_root": "call('pivot_root', b'/tmp', b'/tmp')",
        "chroot": "call('chroot', b'/tmp')",
        "fsopen": "call('fsopen', b'tmpfs', 0)",
        "open_tree": "call('open_tree', -100, b'/env', 1)",
        "move_mount": "call('move_mount', -100, b'/tmp', -100, b'/env', 0)",
        "mount_setattr": "call('mount_setattr', -100, b'/env', 0, None, 0)",
        "user namespace": "call('unshare', 0x10000000)",
        "network namespace": "call('unshare', 0x40000000)",
        "cgroup namespace": "call('unshare', 0x02000000)",
        "keyctl": "call('keyctl', 0, 0, 0)",
        "bpf": "call('bpf', 0, None, 0)",
        "ptrace": "call('ptrace', 16, 1, None, None)",
    }
    assert refused(arena, calls) == {}


def test_a_mount_namespace_of_its_own_gives_no_more(arena: Arena) -> None:
    code = """
    seen = [call("unshare", 0x00020000 | 0x08000000)]
    for place in args:
        place = os.path.realpath(place).encode()
        seen += [call("mount", None, place, None, 32 | 4096, None), call("mount", b"/tmp", place, None, 4096, None)]
    """
    found = seen_at_import(arena, SYSCALLS + f"\nargs = {WHERE!r}" + textwrap.dedent(code))
    assert set(found[1:]) == {"EPERM"}


def test_a_program_that_the_import_starts_has_no_capability_but_in_its_own_namespace(arena: Arena) -> None:
    code = """
    import subprocess
    script = "import os; print([l for l in open('/proc/self/status') if l[:7] in ('CapEff:', 'CapAmb:')], os.getuid())"
    import sys
    seen = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout
    """
    found = seen_at_import(arena, code)
    assert found.count("0000000000000000") == (2 if arena.platform.setup == "user" else 1), found


def test_e1_e2_the_hosts_files_are_not_there(arena: Arena) -> None:
    canary = "canary-at-import-77b2"
    (arena.platform.data / "canary.txt").write_text(canary)
    code = f"""
    import os
    seen = [p for p in ["/etc/shadow", "/root", "/home", "/var", "/sys", "/boot", "/srv", "/run"] if os.path.exists(p)]
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
    assert seen_at_import(arena, code, timeout=60) == []


def test_e3_only_the_zygote_is_seen_and_nothing_of_the_platform_in_it(arena: Arena) -> None:
    code = """
    import os
    text, pids = "", []
    for pid in ["1", *os.listdir("/proc")]:
        if pid.isdigit():
            for name in ["environ", "cmdline", "maps"]:
                try:
                    text += open(f"/proc/{pid}/{name}", errors="replace").read()
                    pids.append(int(pid))
                except OSError:
                    pass
            for name in ["root", "cwd", "exe"]:
                try:
                    text += os.readlink(f"/proc/{pid}/{name}")
                except OSError:
                    pass
    seen = [sorted(set(pids)), os.getpid(), text]
    """
    pids, own, text = seen_at_import(arena, code)
    assert pids == [own]
    for secret in (arena.platform.token, "redis", str(arena.platform.data), "TOKEN", "PASSWORD", "faaspot"):
        assert secret not in text, secret


def test_e4_kill_reaches_only_its_own_sandbox(arena: Arena) -> None:
    """Of its init, which the kernel spares, it knows the number; -1 is all others that it could send to."""
    code = """
    os.kill(1, 9)
    try:
        os.kill(-1, 9)
    except ProcessLookupError:
        seen.append("nobody")
    """
    with arena.unharmed() as pids:
        found = seen_at_import(arena, f"{REACH}\nseen = reach({pids})\n{textwrap.dedent(code)}")
        assert found in ([], ["nobody"])
        outcome = arena.attack("import os\nos.kill(os.getpid(), 9)\ndef main(args, context):\n    return 1\n")
        assert (outcome.status, outcome.reason) == ("Failure", "signal"), outcome


def test_e11_devices_are_only_the_harmless_ones(arena: Arena) -> None:
    code = """
    import os, stat
    seen = []
    for kind in (stat.S_IFBLK, stat.S_IFCHR):
        try:
            os.mknod("/tmp/device", kind | 0o666, os.makedev(8, 0))
            seen.append("made")
        except OSError:
            pass
    for name in "kmsg mem kvm fuse sda vda tty console ptmx net/tun".split():
        try:
            os.close(os.open("/dev/" + name, os.O_RDWR))
            seen.append(name)
        except OSError:
            pass
    """
    assert seen_at_import(arena, code) == []


def test_e12_e13_kernel_knobs_and_cgroups_cannot_be_written(arena: Arena) -> None:
    core_pattern = Path("/proc/sys/kernel/core_pattern").read_text()
    code = """
    import os
    seen = []
    for path in ["/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger", "/proc/sys/net/core/rmem_max",
                 "/sys/fs/cgroup/memory/release_agent", "/sys/fs/cgroup/cgroup.procs", "/proc/1/uid_map",
                 "/proc/1/oom_score_adj", "/proc/1/mem"]:
        try:
            os.close(os.open(path, os.O_WRONLY))
            seen.append(path)
        except OSError:
            pass
    for path, text in {"/proc/self/uid_map": "0 0 1", "/proc/self/oom_score_adj": "-1000"}.items():
        try:
            with open(path, "w") as file:
                file.write(text)
            seen.append(path)
        except OSError:
            pass
    kinds = [line.split()[2] for line in open("/proc/self/mounts")]
    seen += [kind for kind in kinds if "cgroup" in kind or kind == "sysfs"]
    """
    assert seen_at_import(arena, code) == []
    assert Path("/proc/sys/kernel/core_pattern").read_text() == core_pattern


def test_e19_e20_nothing_but_the_agents_channels_came_along(arena: Arena) -> None:
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
    kinds, environ = seen_at_import(arena, code)
    assert kinds == {"0": "c", "1": "p", "2": "p", "3": "s", "4": "s"}
    assert environ == ["HOME", "LANG", "PATH", "TMPDIR", "TZ"]


def test_e21_code_environment_and_standard_library_are_read_only(arena: Arena) -> None:
    code = """
    import os, sys, json
    seen = []
    places = ["/", "/code", "/env", "/python", "/agent", "/agent/agent", "/usr/lib", "/etc", os.path.dirname(json.__file__)]
    for place in places + [path for path in sys.path if path and os.path.isdir(path)]:
        for target in [place, os.path.join(place, "main.py"), json.__file__, sys.executable, "/env/pyvenv.cfg"]:
            try:
                os.chmod(target, 0o777)
                seen.append(["chmod", target])
            except OSError:
                pass
        try:
            open(os.path.join(place, "sitecustomize.py"), "w").close()
            seen.append(["write", place])
        except OSError:
            pass
    """
    assert seen_at_import(arena, code) == []


def test_e22_e23_what_the_import_left_in_tmp_is_not_in_its_runs(arena: Arena) -> None:
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


def test_e27_what_the_import_raises_is_never_unpickled(arena: Arena, tmp_path: Path) -> None:
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


def anonymous_mb(pid: int) -> int:
    """Memory of its own that a process has; 0 when it is gone."""
    try:
        status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    except OSError:
        return 0
    return int(status.get("RssAnon", "0 kB").split()[0]) // 1024


HOARDS = {
    "children": "os.fork()",
    "orphans": "(os.fork() or os.fork() and os._exit(0))",
    "hidden": "(call('setns', own, 0x20000000), call('unshare', 0x20000000), os.fork())[2]",
}
"""Hidden: each in a pid namespace of its own, as runs are."""


@pytest.mark.parametrize("how", HOARDS)
def test_r3_processes_of_an_import_have_a_memory_limit_together(arena: Arena, how: str) -> None:
    code = f"""
    import time
    own = os.open("/proc/self/ns/pid", os.O_RDONLY)
    for _ in range(16):
        if {HOARDS[how]} == 0:
            held = bytearray(60 << 20)
            for at in range(0, len(held), 4096):
                held[at] = 1
            time.sleep(600)
    time.sleep(5)
    def main(args, context):
        return "imported"
    """
    before = arena.sandboxes()
    with arena.deployed(SYSCALLS + textwrap.dedent(code), memory=64) as name:
        outcome = arena.judge(arena.platform.run(name))
        held = sum(anonymous_mb(pid) for pid in arena.sandboxes() - before)
    # Where a cgroup counts, the kernel may choose a child for its kill, and the import goes on.
    if arena.platform.setup == "user":
        assert (outcome.status, outcome.reason) == ("Failure", "oom"), outcome
    assert held < 64 + 256 + 64


def test_r3_a_thread_of_the_import_takes_its_time_and_its_runs_hear_of_oom(arena: Arena) -> None:
    code = """
    import os, threading, time
    def hoard():
        time.sleep(1)
        for _ in range(12):
            if os.fork() == 0:
                held = bytearray(60 << 20)
                for at in range(0, len(held), 4096):
                    held[at] = 1
                time.sleep(600)
        time.sleep(600)
    threading.Thread(target=hoard, daemon=True).start()
    def main(args, context):
        time.sleep(6)
        return "lived"
    """
    outcome = arena.attack(code, memory=64)
    if arena.platform.setup == "user":
        assert (outcome.status, outcome.reason) == ("Failure", "oom"), outcome
        assert "import" in outcome.record["error"]["message"]


def test_r3_an_import_cannot_fill_more_than_its_scratch_space(arena: Arena) -> None:
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
    found = seen_at_import(arena, code, tmp=16, memory=256)
    assert set(found) <= {"No space left on device", "File too large"}
    assert found
