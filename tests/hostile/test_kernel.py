"""E rows about the kernel's own interfaces, as a run meets them: proc, terminals, filters, sockets, credentials."""

from __future__ import annotations

import getpass
import os
import socket
from pathlib import Path

import pytest

from tests.hostile.conftest import SYSCALLS, Arena
from tests.hostile.test_escape import results
from tests.platforms import ROOT


def test_e32_no_terminal_can_be_fed(arena: Arena) -> None:
    code = """
    import fcntl, os, termios
    def main(args, context):
        done = []
        for fd in range(5):
            for name, request in (("TIOCSTI", 0x5412), ("TIOCLINUX", 0x541C), ("TIOCSCTTY", 0x540E), ("TIOCCONS", 0x541D)):
                for wide in (0, 1 << 32):  # the kernel looks at the lower half only
                    try:
                        fcntl.ioctl(fd, request | wide, b"x")
                        done.append(name)
                    except (OSError, OverflowError):
                        pass
        try:
            os.close(os.open("/dev/tty", os.O_RDWR))
            done.append("tty")
        except OSError:
            pass
        return {"done": done, "ttys": [fd for fd in range(3) if os.isatty(fd)]}
    """
    assert results(arena, code) == {"done": [], "ttys": []}


def test_e35_nothing_names_the_host_its_users_or_its_paths(arena: Arena) -> None:
    code = """
    import os, platform, socket
    def main(args, context):
        found = {}
        for path in ["/proc/self/mountinfo", "/proc/self/mounts", "/proc/self/mountstats", "/proc/self/cgroup", "/proc/self/environ",
                     "/proc/self/cmdline", "/proc/self/maps", "/proc/self/status", "/proc/version", "/proc/cmdline", "/proc/self/limits",
                     "/etc/passwd", "/etc/group", "/etc/hosts", "/etc/hostname", "/etc/machine-id", "/etc/resolv.conf", "/etc/fstab"]:
            try:
                found[path] = open(path, errors="replace").read()
            except OSError:
                pass
        found["uname"] = " ".join(os.uname()[1:2]) + socket.gethostname() + socket.getfqdn()
        return found
    """
    found = results(arena, code)
    hidden = {str(arena.platform.data), str(arena.platform.home), socket.gethostname(), arena.platform.token}
    hidden |= {str(ROOT), "/root/", "/home/", ".pyenv", ".venv", "site-packages/faaspot"}
    if getpass.getuser() != "root":
        hidden.add(getpass.getuser())
    shown = [(word, path) for word in hidden for path, text in found.items() if word and word in text]
    assert shown == []
    assert "/proc/version" not in found
    assert "/proc/cmdline" not in found


def test_e38_neither_import_nor_main_can_look_into_another_process(arena: Arena) -> None:
    code = (
        SYSCALLS
        + """
def peek():
    got = []
    for pid in [1, 2, 3, os.getppid()]:
        for name in ("mem", "environ", "maps", "auxv", "fd", "root", "cwd", "exe", "stack", "syscall", "pagemap"):
            if pid in (0, os.getpid()):
                continue
            try:
                path = f"/proc/{pid}/{name}"
                os.listdir(path) if name == "fd" else os.readlink(path) if name in ("root", "cwd", "exe") else open(path, "rb").read(1)
                got.append(path)
            except OSError:
                pass
        for request in (16, 0x4206):
            if call("ptrace", request, pid, None, None) is None:
                got.append(f"ptrace {pid}")
        if call("process_vm_readv", pid, None, 0, None, 0, 0) is None:
            got.append(f"vm_readv {pid}")
    return got
AT_IMPORT = peek()
def main(args, context):
    return [AT_IMPORT, peek()]
"""
    )
    assert results(arena, code) == [[], []]


def test_e42_only_plain_sockets_can_be_made(arena: Arena) -> None:
    """No packet, raw, vsock, alg, bluetooth ... socket, and no protocol whose module the kernel would load for it."""
    code = """
    import socket
    def main(args, context):
        made = []
        for family in range(48):
            for kind in (1, 2, 3, 4, 5, 6, 10):
                for protocol in (0, 1, 2, 6, 17, 33, 58, 100, 103, 132, 136, 255, 256, 262) if family in (2, 10) else (0, 1, 3, 9, 15, 16):
                    try:
                        socket.socket(family, kind, protocol).close()
                        made.append([family, kind, protocol])
                    except OSError:
                        pass
        return made
    """
    made = {tuple(each) for each in results(arena, code)}
    internet = {(family, kind, p) for family in (2, 10) for kind, p in ((1, 0), (1, 6), (2, 0), (2, 17))}
    unix = {(1, kind, protocol) for kind in (1, 2, 3, 5) for protocol in (0, 1)}
    assert made <= internet | unix | {(16, 2, 0), (16, 3, 0)}
    assert internet <= made


def test_e42_a_network_namespaces_settings_cannot_be_changed(arena: Arena) -> None:
    code = """
    import fcntl, socket, struct
    def main(args, context):
        done = []
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as route:
            route.bind((0, 0))
            for kind in (16, 20, 24, 28, 32, 36, 40):  # RTM_NEW: link, address, route, neighbour, rule, qdisc, class
                body = struct.pack("BBHiII", 2, 0, 1, 1, 1, 0xFFFFFFFF)
                route.send(struct.pack("IHHII", 16 + len(body), kind, 5 | 0x600, kind, 0) + body)
                answer = route.recv(65536)
                if struct.unpack("i", answer[16:20])[0] == 0:
                    done.append(kind)
        with socket.socket() as plain:
            for request in (0x8914, 0x8916, 0x8924, 0x890B, 0x89A0):  # SIOCS IFFLAGS, IFADDR, IFHWADDR, ADDRT, BRADDBR
                try:
                    fcntl.ioctl(plain, request, b"lo" + bytes(62))
                    done.append(request)
                except OSError:
                    pass
            for level, option in ((1, 25), (1, 26), (1, 36), (1, 50), (0, 64), (0, 19), (6, 19)):
                # BINDTODEVICE, ATTACH_FILTER, MARK, ATTACH_BPF, iptables, TRANSPARENT, REPAIR
                try:
                    plain.setsockopt(level, option, bytes([1] + [0] * 15))
                    done.append([level, option])
                except OSError:
                    pass
        return done
    """
    assert results(arena, code) == []


def test_e45_a_filter_of_its_own_takes_nothing_away_from_ours(arena: Arena) -> None:
    """Not even one that answers calls itself: of two filters the stricter word holds."""
    code = (
        SYSCALLS
        + """
import struct
def main(args, context):
    allow_all = struct.pack("HBBI", 0x06, 0, 0, 0x7FFF0000)
    notify_all = struct.pack("HBBI", 0x06, 0, 0, 0x7FC00000)
    found = []
    for program, flags in ((allow_all, 0), (allow_all, 1)):
        buffer = ctypes.create_string_buffer(program)
        fprog = struct.pack("HxxxxxxQ", 1, ctypes.addressof(buffer))
        libc.syscall(317 if os.uname().machine == "x86_64" else 277, 1, flags, fprog)
        found += [call("unshare", 0x10000000), call("mount", b"none", b"/tmp", b"tmpfs", 0, None), call("keyctl", 0, 0, 0)]
    buffer = ctypes.create_string_buffer(notify_all)
    return {"errors": found, "time": call("unshare", 0x80), "wide": call("unshare", 0x10000000 | 1 << 40),
            "x32": libc.syscall(0x40000000 | 39) if args["x32"] else -1}
"""
    )
    found = results(arena, code, {"x32": False})
    assert set(found["errors"]) <= {"EPERM", "ENOSYS", "EACCES"}
    assert {found["time"], found["wide"]} <= {"EPERM", "ENOSYS", "EINVAL"}


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="its other call tables are x86's")
@pytest.mark.parametrize("how", ["x32", "int 0x80"])
def test_e45_calls_of_another_architecture_kill_the_run(arena: Arena, how: str) -> None:
    code = {
        "x32": "import ctypes\ndef main(args, context):\n    return ctypes.CDLL(None).syscall(0x40000000 | 272, 0x10000000)\n",
        # mov eax, 20 (getpid of i386); int 0x80; ret
        "int 0x80": (
            "import ctypes, mmap\ndef main(args, context):\n"
            "    code = mmap.mmap(-1, 4096, prot=7)\n    code.write(bytes.fromhex('b814000000cd80c3'))\n"
            "    return ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))()\n"
        ),
    }[how]
    outcome = arena.attack(code)
    assert outcome.reason == "signal" or outcome.output == -1, outcome


def test_e46_what_a_process_may_write_about_itself_gives_it_nothing(arena: Arena) -> None:
    code = """
    import os, resource
    def main(args, context):
        wrote = []
        for name, text in (("oom_score_adj", "-1000"), ("oom_adj", "-17"), ("autogroup", "-20"), ("uid_map", "0 0 1"),
                           ("gid_map", "0 0 1"), ("setgroups", "allow"), ("make-it-fail", "1"),
                           ("timens_offsets", "monotonic 1 0"), ("attr/current", "unconfined"), ("attr/exec", "unconfined")):
            try:
                with open("/proc/self/" + name, "w") as file:
                    file.write(text)
                wrote.append(name)
            except OSError:
                pass
        open("/proc/self/coredump_filter", "w").write("0x7f")
        # The memory of another run would be reached by a name or a number; of its own it may do as it likes.
        return {"wrote": wrote, "core": resource.getrlimit(resource.RLIMIT_CORE),
                "score": int(open("/proc/self/oom_score_adj").read())}
    """
    found = results(arena, code)
    assert found["wrote"] == []
    assert found["core"][1] <= 1  # 1: not even a core_pattern program is started
    assert found["score"] == 1000


def test_e34_e46_no_real_time_deadline_or_higher_share_of_the_processor(arena: Arena) -> None:
    code = """
    import ctypes, os, struct
    def main(args, context):
        libc, got = ctypes.CDLL(None, use_errno=True), []
        number = 314 if os.uname().machine == "x86_64" else 274
        for policy, priority, runtime in ((6, 0, 10_000_000), (1, 1, 0), (2, 99, 0)):  # DEADLINE, FIFO, RR
            attributes = struct.pack("IIQiIQQQ", 48, policy, 0, 0, priority, runtime, runtime * 2, runtime * 2)
            if libc.syscall(number, 0, attributes, 0) == 0:
                got.append(policy)
        if libc.syscall(251 if os.uname().machine == "x86_64" else 30, 1, 0, 1 << 13) == 0:  # ioprio: real time
            got.append("ioprio")
        for which in (os.PRIO_PROCESS, os.PRIO_PGRP, os.PRIO_USER):
            try:
                os.setpriority(which, 0, -5)
                got.append(which)
            except OSError:
                pass
        return got
    """
    assert results(arena, code) == []


def test_e46_a_crash_leaves_no_core_anywhere(arena: Arena) -> None:
    code = "import os, resource\ndef main(args, context):\n    os.chdir('/tmp')\n    os.abort()\n"
    before = set(Path("/").glob("core*")) | set(Path.cwd().glob("core*"))
    outcome = arena.attack(code, context={"SECRET": "never-in-a-core"})
    assert outcome.reason == "signal", outcome
    assert set(Path("/").glob("core*")) | set(Path.cwd().glob("core*")) == before
    assert not list(arena.platform.data.rglob("core"))


def test_e49_programs_of_its_own_run_with_no_more_than_it_has(arena: Arena) -> None:
    """From /tmp, from a memfd, through the loader, with preloaded code: all are the same powerless process."""
    code = """
    import os, shutil, subprocess
    def main(args, context):
        told = []
        shutil.copy("/bin/cat", "/tmp/cat")
        os.chmod("/tmp/cat", 0o6755)
        with open("/tmp/script", "w") as file:
            file.write("#!/tmp/cat /proc/self/status\\n")
        os.chmod("/tmp/script", 0o4755)
        loader = next(path for path in ("/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1") if os.path.exists(path))
        ways = [["/tmp/cat", "/proc/self/status"], ["/tmp/script"], [loader, "/bin/cat", "/proc/self/status"]]
        for way in ways:
            done = subprocess.run(way, capture_output=True, text=True, env={"LD_PRELOAD": "/tmp/evil.so"})
            told.append(done.stdout)
        return told
    """
    for text in results(arena, code):
        status = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
        assert status["NoNewPrivs"].strip() == "1"
        assert status["Seccomp"].strip() == "2"
        assert {int(status[key], 16) for key in ("CapEff", "CapPrm", "CapBnd", "CapInh", "CapAmb")} == {0}
        assert "\t0\t" not in status["Uid"] + "\t"


def test_e50_no_link_or_magic_path_leads_out(arena: Arena) -> None:
    planted = arena.platform.data / "canary.txt"
    planted.write_text("canary-of-the-host")
    code = """
    import os
    def main(args, context):
        out = []
        os.makedirs("/tmp/a/b")
        links = {"up": "../" * 40 + args["planted"].lstrip("/"), "root": "/proc/1/root" + args["planted"], "own": "/proc/self/root" + args["planted"],
                 "cwd": "/proc/self/cwd/" + "../" * 40 + args["planted"], "thread": "/proc/thread-self/root" + args["planted"]}
        for name, target in links.items():
            os.symlink(target, "/tmp/a/b/" + name)
            try:
                out.append(open("/tmp/a/b/" + name).read())
            except OSError:
                pass
        for source in ["/etc/passwd", "/usr/bin/env", __file__, "/proc/self/exe"]:
            try:
                os.link(source, "/tmp/hard-" + os.path.basename(source))
                out.append(source)
            except OSError:
                pass
        # A directory that is moved while somebody stands in it: no way above the root.
        handle = os.open("/tmp/a/b", os.O_RDONLY | os.O_DIRECTORY)
        os.rename("/tmp/a/b", "/tmp/moved")
        os.fchdir(handle)
        for _ in range(40):
            os.chdir("..")
        if os.path.exists("." + args["planted"]) or sorted(os.listdir(".")) != sorted(os.listdir("/")):
            out.append("moved")
        return out
    """
    assert results(arena, code, {"planted": str(planted)}) == []


def test_e19_a_descriptor_that_the_platform_holds_does_not_come_along(arena: Arena) -> None:
    """Every process above a run may hold what it likes; what a run inherits is looked at from outside, too."""
    code = "import time\ndef main(args, context):\n    print('up', flush=True)\n    time.sleep(2)\n"
    with arena.deployed(code) as name:
        before = arena.sandboxes()
        execution = arena.platform.start_run(name)
        arena.platform.ended(execution)
        data = str(arena.platform.data)
        for pid in arena.since(before):
            for link in Path(f"/proc/{pid}/fd").glob("*"):
                try:
                    target = os.readlink(link)
                except OSError:
                    continue
                assert data not in target, (pid, target)
