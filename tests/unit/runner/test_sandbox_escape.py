"""Rows E of the hostile list at the runner's level: what a function tries to read, reach or become.

Each runs as root (cgroup grade) and as an ordinary user (rlimit grade), in real sandboxes: in one that is made for it,
and in one that stood ready before its code came.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from tests.unit.runner.sandboxes import GRADES, PLANTED, Stage

REFUSED = {"EPERM", "EACCES", "ENOSYS", "ENOENT", "EROFS", "ENODEV", "EINVAL", "ENOTDIR"}
X86 = os.uname().machine == "x86_64"
pytestmark = pytest.mark.skipif(not X86, reason="the numbers of system calls below are those of x86_64")


@pytest.fixture(scope="module", params=[*GRADES, *(f"{grade}, from a blank" for grade in GRADES)])
def made(request: pytest.FixtureRequest) -> Iterator[Stage]:
    grade, _, way = request.param.partition(", ")
    stage = Stage(grade, blanks=4 if way else 0)
    if way:
        stage.output("def main(args, context):\n    return 0  # asks for the first ones\n")
    yield stage
    stage.close()


@pytest.fixture
def stage(made: Stage) -> Stage:
    if made.blanks:
        made.ask(op="blanks", least=2)
    return made


def test_e1_the_hosts_files_are_not_there(stage: Stage) -> None:
    paths = [
        "/etc/shadow",
        "/root",
        "/home",
        "/var",
        "/sys",
        "/run",
        "/usr/local",
        "/etc/ssh",
        "/proc/sys",
        "/proc/1/x",
    ]
    code = "import os\ndef main(args, context):\n    return [path for path in args['paths'] if os.path.lexists(path)]"
    assert stage.output(code, args={"paths": paths}) == []


def test_e2_the_root_holds_only_what_is_ours(stage: Stage) -> None:
    code = """
    import os
    def main(args, context):
        return [sorted(os.listdir("/")), sorted(os.listdir("/etc")), sorted(os.listdir("/dev"))]
    """
    root, etc, dev = stage.output(code)
    assert set(root) <= {
        "agent",
        "bin",
        "code",
        "dev",
        "env",
        "etc",
        "lib",
        "lib32",
        "lib64",
        "proc",
        "python",
        "sbin",
        "tmp",
        "usr",
    }
    assert set(etc) <= {
        *("alternatives", "group", "hosts", "ld.so.cache", "localtime", "nsswitch.conf", "passwd", "pki", "ssl")
    }
    assert dev == ["fd", "full", "null", "random", "shm", "stderr", "stdin", "stdout", "urandom", "zero"]


def test_e3_only_its_own_processes_are_seen(stage: Stage) -> None:
    code = f"""
    import os
    def read(path):
        try:
            with open(path, "rb") as file:
                return file.read(1 << 20)
        except OSError:
            return b""
    def main(args, context):
        pids = [name for name in os.listdir("/proc") if name.isdigit()]
        found = [path for pid in pids for path in ("environ", "cmdline", "maps")
                 if {PLANTED[:12]!r}.encode() + {PLANTED[12:]!r}.encode() in read("/proc/%s/%s" % (pid, path))]
        return [os.getpid(), pids, found]
    """
    assert stage.output(code) == [1, ["1"], []]


def test_e3_an_import_does_not_see_the_sandboxs_init(stage: Stage) -> None:
    code = """
    import os
    seen = sorted(name for name in os.listdir("/proc") if name.isdigit())
    def main(args, context):
        return seen
    """
    assert stage.output(code) == ["2"]


def test_e4_signals_reach_only_its_own_sandbox(stage: Stage) -> None:
    code = """
    import os
    def main(args, context):
        for pid in (-1, 1):
            try:
                os.kill(pid, 9)
            except OSError:
                pass
        return "alive"
    """
    answer = stage.runs(code)
    assert answer["outcomes"][0]["reason"] in (None, "error", "signal")
    assert answer["alive"], "the zygote was hit"


def test_e6_no_mount_can_be_made_moved_or_left(stage: Stage) -> None:
    calls = {
        "mount": (165, b"none", b"/tmp", b"tmpfs", 0, 0), "umount2": (166, b"/proc", 2),
        "remount": (165, b"none", b"/usr/lib", 0, 32 | 4096, 0), "fsopen": (430, b"tmpfs", 0),
        "open_tree": (428, -100, b"/tmp", 1), "move_mount": (429, -100, b"/tmp", -100, b"/dev/shm", 0),
        "pivot_root": (155, b"/tmp", b"/tmp"), "chroot": (161, b"/tmp"), "mount_setattr": (442, -100, b"/", 0, 0, 0),
    }  # fmt: skip
    code = f"def main(args, context):\n    return {{name: attempt(syscall, *call) for name, call in {calls!r}.items()}}"
    assert set(stage.hostile(code).values()) == {"EPERM"}


def test_e7_no_namespace_can_be_made_or_joined(stage: Stage) -> None:
    flags = (0x20000, 0x80, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000)
    code = f"""
    def main(args, context):
        seen = [attempt(syscall, 272, flag) for flag in {flags}]
        seen += [attempt(syscall, 56, flag | 17, 0, 0, 0, 0) for flag in {flags} if flag != 0x80]
        fd = os.open("/proc/self/ns/pid", os.O_RDONLY)
        seen += [attempt(syscall, 308, fd, flag) for flag in (0, *{flags})]
        import threading
        thread = threading.Thread(target=lambda: seen.append("thread"))
        thread.start(), thread.join()
        return [seen[-1], sorted(set(seen[:-1])), attempt(syscall, 435, 0, 0)]
    """
    assert stage.hostile(code) == ["thread", ["EPERM"], "ENOSYS"]


def test_e8_e9_keys_bpf_io_uring_and_their_kin_are_refused(stage: Stage) -> None:
    numbers = {
        "add_key": 248, "request_key": 249, "keyctl": 250, "bpf": 321, "perf_event_open": 298, "userfaultfd": 323,
        "io_uring_setup": 425, "ptrace": 101, "process_vm_readv": 310, "process_vm_writev": 311, "kcmp": 312,
        "pidfd_getfd": 438, "open_by_handle_at": 304, "init_module": 175, "kexec_load": 246, "reboot": 169,
        "settimeofday": 164, "clock_settime": 227, "sethostname": 170, "syslog": 103, "swapon": 167, "acct": 163,
        "iopl": 172, "modify_ldt": 154, "personality": 135, "quotactl": 179, "vhangup": 153,
    }  # fmt: skip
    code = f"def main(args, context):\n    return {{k: attempt(syscall, n, 0, 0, 0, 0) for k, n in {numbers}.items()}}"
    assert set(stage.hostile(code).items()) == {(name, "EPERM") for name in numbers}


def test_a_call_of_another_architecture_kills(stage: Stage) -> None:
    """The x32 numbers reach the same calls past a filter that only looks at the number."""
    outcome = stage.run("import ctypes\ndef main(args, context):\n    ctypes.CDLL(None).syscall(0x40000000 + 39)\n")
    assert outcome["reason"] == "signal"


def test_e11_no_device_can_be_made_or_opened(stage: Stage) -> None:
    names = ["kmsg", "mem", "kvm", "fuse", "sda", "vda", "tty", "console", "net/tun", "ptmx"]
    code = f"""
    def main(args, context):
        seen = [attempt(os.mknod, "/tmp/" + kind, mode, 259) for kind, mode in (("b", 0o60600), ("c", 0o20600))]
        return seen + [attempt(os.open, "/dev/" + name, os.O_RDONLY) for name in {names}]
    """
    assert set(stage.hostile(code)) <= REFUSED


def test_e12_e13_no_kernel_or_cgroup_file_can_be_written(stage: Stage) -> None:
    paths = [
        *("/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger", "/proc/sys/kernel/hostname"),
        *("/sys/kernel/uevent_helper", "/proc/sys/fs/binfmt_misc/register", "/sys/fs/cgroup/memory/release_agent"),
        *("/sys/fs/cgroup/cgroup.procs", "/proc/self/oom_score_adj", "/proc/self/uid_map"),
    ]
    code = f"""
    def write(path):
        with open(path, "wb", buffering=0) as file:
            return file.write(b"-1000")
    def main(args, context):
        with open("/proc/self/mountinfo") as file:
            kinds = set(line.split(" - ")[1].split()[0] for line in file)
        return [[attempt(write, path) for path in {paths}], sorted(kinds & {{"cgroup", "cgroup2", "sysfs"}})]
    """
    refused, kinds = stage.hostile(code)
    assert set(refused) <= REFUSED
    assert kinds == []


def test_e15_e16_no_socket_of_the_host_is_reached(stage: Stage) -> None:
    abstract = socket.socket(socket.AF_UNIX)
    abstract.bind("\0faaspot-test-abstract")
    listener = socket.create_server(("127.0.0.1", 0))
    abstract.listen(), listener.settimeout(0.1)
    code = """
    import socket
    def reach(family, address):
        with socket.socket(family) as sock:
            sock.settimeout(1)
            return sock.connect(address)
    def main(args, context):
        targets = [("127.0.0.1", args["port"]), ("169.254.169.254", 80), ("10.0.0.1", 80), ("1.1.1.1", 53)]
        seen = [attempt(reach, socket.AF_INET, target) for target in targets]
        seen += [attempt(reach, socket.AF_INET6, ("::1", args["port"]))]
        seen += [attempt(reach, socket.AF_UNIX, path) for path in ("\\0faaspot-test-abstract", "/run/docker.sock")]
        kinds = [(40, 1), (17, 3), (38, 5), (31, 3)]
        return [seen, [attempt(socket.socket, family, kind) for family, kind in kinds]]
    """
    try:
        reached, made = stage.hostile(code, args={"port": listener.getsockname()[1]})
    finally:
        abstract.close(), listener.close()
    assert not [answer for answer in reached if answer.startswith("done")]
    assert set(made) == {"ENOSYS"}


def test_e19_no_descriptor_of_the_host_is_inherited(stage: Stage) -> None:
    """The driver that made the sandbox has a planted secret open."""
    code = """
    def main(args, context):
        names = sorted(map(int, os.listdir("/proc/self/fd")))[:-1]
        found = {str(fd): os.readlink("/proc/self/fd/%d" % fd).split(":")[0] for fd in names}
        return [found, [attempt(os.listdir, "/proc/self/fd/%s/../.." % fd) for fd in found]]
    """
    found, climbed = stage.hostile(code)
    assert found == {"0": "/dev/null", "1": "pipe", "2": "pipe", "3": "socket"}
    assert set(climbed) == {"ENOTDIR"}


def test_e19_a_pidfd_of_the_platform_cannot_be_had_from_a_socket(stage: Stage) -> None:
    code = """
    import socket
    def main(args, context):
        channel = socket.socket(fileno=3)
        try:
            return [attempt(channel.getsockopt, 1, 77), attempt(channel.setsockopt, 1, 76, 1),
                    attempt(channel.getsockopt, 1, 3)]
        finally:
            channel.detach()
    """
    peer, passing, kind = stage.hostile(code)
    assert {peer, passing} == {"ENOSYS"}
    assert kind == "done: 1"


def test_e20_the_environment_is_exactly_what_was_promised(stage: Stage) -> None:
    expected = {
        "PATH": "/env/bin:/usr/bin:/bin", "HOME": "/tmp", "TMPDIR": "/tmp", "LANG": "C.UTF-8", "TZ": "UTC",
        "FAASPOT_EXECUTION_ID": "e0", "FAASPOT_ATTEMPT": "1",
    }  # fmt: skip
    assert stage.output("import os\ndef main(args, context):\n    return dict(os.environ)") == expected


def test_e21_nothing_but_tmp_can_be_written(stage: Stage) -> None:
    code = """
    def write(path):
        with open(path, "w") as file:
            file.write("x")
    def main(args, context):
        places = ["/code/main.py", "/code/x", "/env/x.pth", "/python/x", "/usr/lib/x", "/etc/x", "/x", "/agent/x"]
        places += ["/dev/x", os.path.dirname(os.__file__) + "/x.py"]
        return [attempt(write, place) for place in places] + [attempt(write, "/tmp/x")]
    """
    *refused, tmp = stage.hostile(code)
    assert set(refused) <= {"EROFS", "EACCES", "ENOENT"}, "/agent is not there where the zygote is forked"
    assert tmp == "done: None"


def test_e22_e23_files_and_ipc_end_with_their_run(stage: Stage) -> None:
    code = """
    def main(args, context):
        seen = os.listdir("/tmp") + os.listdir("/dev/shm")
        with open("/tmp/kept", "w"), open("/dev/shm/kept", "w"):
            pass
        segment = attempt(syscall, 29, 4242, 4096, 0o3600)
        queue = attempt(syscall, 240, b"kept", 0o302, 0o600, 0)
        return [seen, segment.split(":")[0], queue.split(":")[0]]
    """
    first, second = stage.hostile(code, args={"n": 1}), stage.hostile(code, args={"n": 2})
    assert first[0] == second[0] == []
    assert first[1:] == second[1:], "IPC_EXCL: the second run would meet what the first had left"


def test_e27_a_result_that_is_no_json_is_never_interpreted(stage: Stage) -> None:
    code = """
    class Evil:
        def __reduce__(self):
            import os
            return os.system, ("touch /tmp/faaspot-pickled",)
    def main(args, context):
        return {"a": [1, Evil()]}
    """
    outcome = stage.run(code)
    assert outcome["reason"] == "unserialisable"
    assert outcome["error"]["message"] == "main.Evil cannot be JSON at $.a[1]"
    assert not os.path.exists("/tmp/faaspot-pickled")


@pytest.mark.parametrize(
    "sent",
    [
        b"\x80\x04cos\nsystem\n", b'{"ok":true,"output":NaN}', b'{"ok":true,"output":"\\ud800"}', b'{"ok":true}', b"[]",
        b'{"ok":true,"output":' + b"[" * 200_000 + b"}", b'{"ok":true,"output":1}}', b'{"ok":false,"reason":"oom"}',
        b'{"ok":true,"output":' + b"9" * 5000 + b"}", b'{"ok":true,"output":"\xff"}',
    ],
    ids=range(10),
)  # fmt: skip
def test_e27_what_hostile_code_writes_into_the_channel_is_judged(stage: Stage, sent: bytes) -> None:
    code = f"""
    import os, time
    def main(args, context):
        data = {sent!r}
        data = len(data).to_bytes(4, "big") + data
        while data:
            data = data[os.write(3, data):]
        time.sleep(30)
    """
    assert stage.run(code)["reason"] == "unserialisable"


def test_e31_setuid_programs_give_nothing(stage: Stage) -> None:
    code = """
    import subprocess
    def main(args, context):
        with open("/proc/self/status") as file:
            status = dict(line.rstrip("\\n").split(":\\t", 1) for line in file if ":\\t" in line)
        done = subprocess.run(["su", "-c", "id"], input="", capture_output=True, text=True)
        caps = [status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")]
        return [done.returncode != 0, sorted(set(caps)), status["NoNewPrivs"], status["Seccomp"], status["Uid"].split()]
    """
    assert stage.hostile(code) == [True, ["0" * 16], "1", "2", ["1000"] * 4]


def test_e32_terminal_input_cannot_be_faked(stage: Stage) -> None:
    code = """
    import fcntl
    def main(args, context):
        return [attempt(fcntl.ioctl, 0, command, b"x") for command in (0x5412, 0x541C)] + \\
               [attempt(syscall, 16, 0, 0x100005412, b"x")]
    """
    assert stage.hostile(code) == ["EPERM", "EPERM", "EPERM"]


def test_e34_priorities_and_limits_cannot_be_raised(stage: Stage) -> None:
    code = """
    import resource
    def more(kind):
        soft, hard = resource.getrlimit(kind)
        resource.setrlimit(kind, (hard + 1, hard + 1))
    def main(args, context):
        kinds = [resource.RLIMIT_NOFILE, resource.RLIMIT_NPROC, resource.RLIMIT_CORE, resource.RLIMIT_MEMLOCK]
        fifo = attempt(os.sched_setscheduler, 0, os.SCHED_FIFO, os.sched_param(10))
        return [attempt(more, kind) for kind in kinds] + [fifo, attempt(os.nice, -5)]
    """
    seen = stage.hostile(code)
    assert not [answer for answer in seen if answer.startswith("done")]


def test_e35_no_path_name_or_kernel_of_the_host_is_told(stage: Stage) -> None:
    code = """
    import os, platform
    def main(args, context):
        with open("/proc/self/mountinfo") as file:
            return [platform.node(), os.path.exists("/proc/version"), file.read()]
    """
    node, version, mounts = stage.output(code)
    assert (node, version) == ("sandbox", False)
    assert "faaspot" not in mounts


def test_e38_the_import_cannot_read_the_platforms_memory(stage: Stage) -> None:
    code = """
    import os
    seen = [attempt(os.open, "/proc/1/" + name, os.O_RDONLY) for name in ("mem", "environ", "maps", "root")]
    seen += [attempt(os.listdir, "/proc/1/fd"), attempt(syscall, 101, 16, 1, 0, 0)]
    def main(args, context):
        return seen
    """
    assert set(stage.hostile(code)) <= REFUSED


def test_runs_at_the_same_time_do_not_see_each_other(stage: Stage) -> None:
    code = """
    import os, time
    def main(args, context):
        open("/tmp/mine", "x").close()
        time.sleep(0.1)
        return [os.getpid(), os.listdir("/tmp"), len([name for name in os.listdir("/proc") if name.isdigit()])]
    """
    answer = stage.runs(code, count=8, together=True)
    assert {outcome["output"] for outcome in answer["outcomes"]} == {'[1,["mine"],1]'}
