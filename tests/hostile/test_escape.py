"""E rows: a function that tries to read, reach or change what is not its own."""

from __future__ import annotations

import tempfile
import textwrap
from pathlib import Path
from typing import Any

import pytest

from tests.hostile.conftest import REACH, SYSCALLS, Arena

REFUSED = {"EPERM", "EACCES", "ENOSYS", "ENOENT", "EROFS", "EINVAL", "ENOTDIR"}


def results(arena: Arena, code: str, args: dict[str, Any] | None = None, **settings: Any) -> Any:
    outcome = arena.attack(code, args, **settings)
    assert outcome.status == "Success", outcome
    return outcome.output


def test_e1_the_hosts_files_are_not_there(arena: Arena) -> None:
    """In a container /var, /srv, /mnt and /opt are the image's own, and its /etc/shadow is there but not to be read."""
    with tempfile.NamedTemporaryFile(dir="/var/tmp") as planted:
        found = results(
            arena,
            """
            import os
            def main(args, context):
                there = []
                for path in ["/root", "/home", "/sys", "/boot", "/run", "/var", "/srv", "/mnt", "/opt"]:
                    if os.path.exists(path):
                        there.append(path)
                for path in ["/etc/shadow", args["planted"]]:
                    try:
                        there.append(open(path).read())
                    except OSError:
                        pass
                return there
            """,
            {"planted": planted.name},
        )
    of_the_image = {"/var", "/srv", "/mnt", "/opt"} if arena.runtime == "docker" else set()
    assert set(found) <= of_the_image


def test_e2_no_canary_of_the_host_or_another_deployment_is_found(arena: Arena, tmp_path: Path) -> None:
    canary = "canary-5d1f0c7b"
    (arena.platform.data / "canary.txt").write_text(canary)
    other = (
        f"SECRET = '{canary}'\ndef main(args, context):\n    open('/tmp/{canary}', 'w').write(SECRET)\n    return 1\n"
    )
    with arena.deployed(other, context={"SECRET": canary}) as name:
        assert arena.platform.run(name).json == 1
        found = results(
            arena,
            """
            import os
            def main(args, context):
                canary = "canary-" + args["tail"]
                seen, count = [], 0
                for folder, folders, files in os.walk("/"):
                    if folder.startswith("/proc"):
                        folders[:] = []
                        continue
                    if folder.startswith(("/usr/lib", "/usr/bin", "/usr/share", "/python/lib")):
                        folders[:] = []
                        continue
                    for name in files:
                        path = os.path.join(folder, name)
                        count += 1
                        if canary in path:
                            seen.append(path)
                        try:
                            if os.path.isfile(path) and canary.encode() in open(path, "rb").read(1 << 20):
                                seen.append(path)
                        except OSError:
                            pass
                return {"seen": seen, "count": count}
            """,
            {"tail": "5d1f0c7b"},
            timeout=60,
        )
    assert found["seen"] == []
    assert found["count"] > 3


def test_e3_only_its_own_processes_are_seen_and_no_secret_in_them(arena: Arena) -> None:
    found = results(
        arena,
        """
        import os
        def main(args, context):
            text, pids = "", []
            for pid in os.listdir("/proc"):
                if pid.isdigit():
                    pids.append(int(pid))
                    for name in ["environ", "cmdline", "maps"]:
                        try:
                            text += open(f"/proc/{pid}/{name}", errors="replace").read()
                        except OSError:
                            pass
                    for name in ["root", "cwd"]:
                        try:
                            text += os.readlink(f"/proc/{pid}/{name}")
                        except OSError:
                            pass
            return {"pids": pids, "own": os.getpid(), "text": text}
        """,
    )
    assert found["pids"] == [found["own"]]
    for secret in (arena.platform.token, "redis", str(arena.platform.data), "TOKEN", "PASSWORD"):
        assert secret not in found["text"]


def test_e4_kill_reaches_only_its_own_run(arena: Arena) -> None:
    """A run is the first process of its pid namespace: the kernel spares it, and it names nobody else."""
    code = """
    def main(args, context):
        named = reach(args["pids"])
        os.kill(1, 9)
        try:
            os.kill(-1, 9)
        except ProcessLookupError:
            named.append("nobody")
        return named
    """
    with arena.unharmed() as pids:
        assert results(arena, REACH + textwrap.dedent(code), {"pids": pids}) == ["nobody"]


E6 = {
    "mount": "call('mount', b'none', b'/tmp', b'tmpfs', 0, None)",
    "umount2": "call('umount2', b'/proc', 2)",
    "remount": "call('mount', None, b'/', None, 32 | 4096, None)",
    "fsopen": "call('fsopen', b'tmpfs', 0)",
    "open_tree": "call('open_tree', -100, b'/', 1)",
    "move_mount": "call('move_mount', -100, b'/tmp', -100, b'/env', 0)",
    "pivot_root": "call('pivot_root', b'/tmp', b'/tmp')",
    "chroot": "call('chroot', b'/tmp')",
    "mount_setattr": "call('mount_setattr', -100, b'/', 0, None, 0)",
}
E7 = {
    "unshare user": "call('unshare', 0x10000000)",
    "unshare mount": "call('unshare', 0x00020000)",
    "unshare net": "call('unshare', 0x40000000)",
    "clone user": "call('clone', 0x10000000 | 17, None, None, None, None)",
    "clone pid": "call('clone', 0x20000000 | 17, None, None, None, None)",
    "setns": "call('setns', 0, 0)",
    "clone3": "call('clone3', None, 0)",
}
E8 = {"keyctl": "call('keyctl', 0, 0, 0)", "add_key": "call('add_key', b'user', b'x', b'y', 1, -3)",
      "request_key": "call('request_key', b'user', b'x', None, 0)"}  # fmt: skip
E9 = {
    "bpf": "call('bpf', 0, None, 0)",
    "perf_event_open": "call('perf_event_open', None, 0, -1, -1, 0)",
    "userfaultfd": "call('userfaultfd', 0)",
    "io_uring_setup": "call('io_uring_setup', 1, None)",
}
E33 = {
    "settimeofday": "call('settimeofday', b'\\0' * 16, None)",
    "sethostname": "call('sethostname', b'x', 1)",
    "reboot": "call('reboot', 0xfee1dead, 672274793, 0, None)",
    "syslog": "call('syslog', 3, None, 0)",
    "swapon": "call('swapon', b'/tmp/x', 0)",
    "acct": "call('acct', None)",
    "kexec_load": "call('kexec_load', 0, 0, None, 0)",
    "init_module": "call('init_module', None, 0, b'')",
    "ptrace": "call('ptrace', 16, 1, None, None)",
    "process_vm_readv": "call('process_vm_readv', 1, None, 0, None, 0, 0)",
    "open_by_handle_at": "call('open_by_handle_at', -100, None, 0)",
}


@pytest.mark.parametrize(("row", "calls"), [("E6", E6), ("E7", E7), ("E8", E8), ("E9", E9), ("E33", E33)])
def test_forbidden_system_calls_are_refused(arena: Arena, row: str, calls: dict[str, str]) -> None:
    body = ", ".join(f"{name!r}: {expression}" for name, expression in calls.items())
    found = results(arena, SYSCALLS + f"\ndef main(args, context):\n    return {{{body}}}\n")
    allowed = {name: error for name, error in found.items() if error not in REFUSED - {"EINVAL", "ENOENT"}}
    assert allowed == {}, row
    if row == "E7":
        assert found["clone3"] == "ENOSYS"


def test_e7_threads_still_work_without_clone3(arena: Arena) -> None:
    code = """
    import threading
    def main(args, context):
        done = []
        threads = [threading.Thread(target=done.append, args=(n,)) for n in range(8)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        return sorted(done)
    """
    assert results(arena, code) == list(range(8))


def test_e11_devices_are_only_the_harmless_ones(arena: Arena) -> None:
    code = """
    import os, stat
    def main(args, context):
        made = {}
        for kind in (stat.S_IFBLK, stat.S_IFCHR):
            try:
                os.mknod("/tmp/device", kind | 0o666, os.makedev(8, 0))
                made[str(kind)] = "made"
            except OSError as error:
                made[str(kind)] = error.errno
        opened = []
        for name in "kmsg mem kvm fuse sda vda tty console ptmx net/tun".split():
            try:
                os.close(os.open("/dev/" + name, os.O_RDWR))
                opened.append(name)
            except OSError:
                pass
        nodes = [name for name in os.listdir("/dev") if not os.path.islink("/dev/" + name)]
        open("/dev/null", "w").write("x")
        return {"made": made, "opened": opened, "nodes": sorted(nodes), "zero": len(open("/dev/zero", "rb").read(4)),
                "random": len(os.urandom(4)) + len(open("/dev/urandom", "rb").read(4))}
    """
    found = results(arena, code)
    assert "made" not in found["made"].values()
    assert found["opened"] == []
    assert set(found["nodes"]) <= {"null", "zero", "full", "random", "urandom", "shm"}
    assert (found["zero"], found["random"]) == (4, 8)


def test_e12_e13_kernel_knobs_and_cgroups_cannot_be_written(arena: Arena) -> None:
    core_pattern = Path("/proc/sys/kernel/core_pattern").read_text()
    code = """
    import os
    PATHS = ["/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger", "/proc/sys/kernel/modprobe", "/proc/sys/kernel/hostname",
        "/proc/sys/vm/overcommit_memory", "/sys/kernel/uevent_helper", "/proc/sys/fs/binfmt_misc/register",
        "/sys/fs/cgroup/memory/release_agent", "/sys/fs/cgroup/cgroup.procs", "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/proc/self/oom_score_adj_x", "/proc/1/uid_map"]
    def main(args, context):
        opened = []
        for path in PATHS:
            try:
                os.close(os.open(path, os.O_WRONLY))
                opened.append(path)
            except OSError:
                pass
        mounts = [line.split()[2] for line in open("/proc/self/mounts")]
        return {"opened": opened, "cgroup": [kind for kind in mounts if "cgroup" in kind or kind == "sysfs"]}
    """
    found = results(arena, code)
    assert found["opened"] in ([], ["/proc/1/uid_map"])
    assert found["cgroup"] == []
    assert Path("/proc/sys/kernel/core_pattern").read_text() == core_pattern


def test_e15_e16_nothing_of_the_host_can_be_reached(arena: Arena, host_listeners: dict[str, Any]) -> None:
    code = """
    import socket
    def attempt(family, address):
        try:
            with socket.socket(family, socket.SOCK_STREAM) as it:
                it.settimeout(2)
                it.connect(address)
            return "connected"
        except OSError as error:
            return type(error).__name__
    def main(args, context):
        found = {"abstract": attempt(socket.AF_UNIX, chr(0) + args["abstract"])}
        for path in ["/var/run/docker.sock", "/run/docker.sock", "/run/dbus/system_bus_socket", args["redis"]]:
            found[path] = attempt(socket.AF_UNIX, path)
        for port in args["ports"]:
            for host in ["127.0.0.1", "192.0.2.2", "169.254.169.254", "10.0.0.1"]:
                found[f"{host}:{port}"] = attempt(socket.AF_INET, (host, port))
            found[f"::1:{port}"] = attempt(socket.AF_INET6, ("::1", port))
        return found
    """
    args = {
        "abstract": host_listeners["abstract"],
        "ports": [host_listeners["port"], arena.platform.port, 6379],
        "redis": str(arena.platform.data / "redis" / "redis.sock"),
    }
    found = results(arena, code, args, network="none", timeout=60)
    assert {name: how for name, how in found.items() if how == "connected"} == {}
    assert host_listeners["reached"] == []


def test_e19_no_descriptor_of_the_host_came_along(arena: Arena) -> None:
    code = """
    import os, stat
    def main(args, context):
        kinds = {}
        for name in os.listdir("/proc/self/fd"):
            try:
                mode = os.fstat(int(name)).st_mode
            except OSError:
                continue
            kinds[name] = stat.filemode(mode)[0]
        escaped = []
        for name in kinds:
            for path in (f"/proc/self/fd/{name}/../..", f"/proc/self/fd/{name}/.."):
                try:
                    os.listdir(path)
                    escaped.append(path)
                except OSError:
                    pass
        return {"kinds": kinds, "escaped": escaped}
    """
    found = results(arena, code)
    assert found["escaped"] == []
    assert set(found["kinds"]) >= {"0", "1", "2"}
    assert len(found["kinds"]) <= 4 + 1, found  # the channel; and listdir's own descriptor, gone by then
    assert "d" not in found["kinds"].values()


def test_e20_its_environment_is_exactly_what_is_documented(arena: Arena) -> None:
    found = results(arena, "import os\ndef main(args, context):\n    return dict(os.environ)\n")
    assert set(found) == {"PATH", "HOME", "TMPDIR", "LANG", "TZ", "FAASPOT_EXECUTION_ID", "FAASPOT_ATTEMPT"}
    assert (found["HOME"], found["TMPDIR"], found["LANG"], found["FAASPOT_ATTEMPT"]) == ("/tmp", "/tmp", "C.UTF-8", "1")


def test_e21_code_environment_and_standard_library_are_read_only(arena: Arena) -> None:
    code = """
    import os, sys, json
    def main(args, context):
        written = []
        places = ["/", "/code", "/env", "/python", "/usr/lib", "/etc", os.path.dirname(json.__file__), os.path.dirname(__file__)]
        places += [path for path in sys.path if path and os.path.isdir(path)]
        for place in places:
            for name in ["evil.pth", "sitecustomize.py", "__pycache__"]:
                try:
                    with open(os.path.join(place, name), "w") as file:
                        file.write("x")
                    written.append(place)
                except OSError:
                    pass
        try:
            open(__file__, "a").write("x")
            written.append(__file__)
        except OSError:
            pass
        return written
    """
    assert results(arena, code) == []


def test_e22_e23_nothing_passes_from_one_execution_to_the_next(arena: Arena) -> None:
    code = """
    import ctypes, os
    libc = ctypes.CDLL(None, use_errno=True)
    def main(args, context):
        seen = []
        for path in ["/tmp/mine", "/dev/shm/mine"]:
            if os.path.exists(path):
                seen.append(path)
            open(path, "w").write("x")
        found = libc.shmget(4242, 4096, 0)
        if found != -1:
            seen.append("shm")
        libc.shmget(4242, 4096, 0o1666)
        if libc.semget(4242, 1, 0) != -1:
            seen.append("sem")
        libc.semget(4242, 1, 0o1666)
        try:
            rt = ctypes.CDLL("librt.so.1", use_errno=True)
            if rt.mq_open(b"/mine", os.O_RDWR, 0o600, None) != -1:
                seen.append("mq")
            rt.mq_open(b"/mine", os.O_RDWR | os.O_CREAT, 0o600, None)
        except OSError:
            pass
        return seen
    """
    with arena.deployed(code) as name:
        for _ in range(3):
            outcome = arena.judge(arena.platform.run(name))
            assert (outcome.status, outcome.output) == ("Success", []), outcome


def test_e27_an_object_with_evil_reduce_is_never_unpickled(arena: Arena, tmp_path: Path) -> None:
    marker = tmp_path / "owned"
    code = f"""
    import os, pickle
    class Evil:
        def __reduce__(self):
            return (os.system, ("touch {marker}",))
    def main(args, context):
        if args["how"] == "object":
            return Evil()
        return pickle.dumps(Evil(), 0).decode("latin-1")
    """
    outcome = arena.attack(code, {"how": "object"})
    assert (outcome.status, outcome.reason) == ("Failure", "unserialisable"), outcome
    assert "Evil" in str(outcome.output)
    assert arena.attack(code, {"how": "text"}).status == "Success"
    assert not marker.exists()


def test_e29_text_that_looks_like_the_protocol_is_only_log(arena: Arena) -> None:
    code = """
    import sys
    def main(args, context):
        print('{"ok": true, "output": "forged"}', flush=True)
        sys.stderr.write("\\x00\\x00\\x00\\x1e" + '{"ok": true, "output": "forged"}')
        return "true one"
    """
    outcome = arena.attack(code)
    assert outcome.output == "true one"
    assert '"forged"' in outcome.log


def test_e31_setuid_programs_gain_nothing(arena: Arena) -> None:
    code = """
    import os, subprocess
    def main(args, context):
        found = {}
        for program in ["/bin/su", "/usr/bin/mount", "/bin/mount", "/usr/bin/newgrp", "/usr/bin/passwd"]:
            if os.path.exists(program):
                done = subprocess.run([program, "-c", "id -u"], capture_output=True, text=True, stdin=subprocess.DEVNULL)
                found[program] = [done.returncode, done.stdout]
        status = dict(line.split(":", 1) for line in open("/proc/self/status"))
        return {"programs": found, "nnp": status["NoNewPrivs"].strip(), "eff": status["CapEff"].strip(),
                "prm": status["CapPrm"].strip(), "bnd": status["CapBnd"].strip(), "seccomp": status["Seccomp"].strip(),
                "uid": os.getuid()}
    """
    found = results(arena, code)
    for code_, text in found["programs"].values():
        assert code_ != 0 or text.strip() != "0"
    assert found["nnp"] == "1"
    assert found["seccomp"] == "2"
    assert int(found["eff"], 16) == int(found["prm"], 16) == int(found["bnd"], 16) == 0
    assert found["uid"] != 0


def test_e34_priorities_and_limits_cannot_be_raised(arena: Arena) -> None:
    code = """
    import os, resource
    def main(args, context):
        got = []
        def attempt(name, function):
            try:
                function()
                got.append(name)
            except (OSError, ValueError):
                pass
        attempt("fifo", lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(10)))
        attempt("nice", lambda: os.nice(-5))
        attempt("oom", lambda: os.write(os.open("/proc/self/oom_score_adj", os.O_WRONLY), b"-1000"))
        for name in ["RLIMIT_NOFILE", "RLIMIT_NPROC", "RLIMIT_FSIZE", "RLIMIT_CORE", "RLIMIT_MEMLOCK"]:
            soft, hard = resource.getrlimit(getattr(resource, name))
            if hard != resource.RLIM_INFINITY:
                attempt(name, lambda: resource.setrlimit(getattr(resource, name), (hard + 1, hard + 1)))
        return got
    """
    assert results(arena, code) == []
