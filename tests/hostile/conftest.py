"""One running platform for each set-up, and `attack`: deploy a hostile function, run it, check what must hold for every row.

The rows (E1, R5 ...) are those of the project's list of hostile functions; what is common to all is in `Arena.attack`:
one terminal state, the API healthy, the next innocent run fine, and with the deployment deleted no process of it left.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import textwrap
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests import docker_engine
from tests.hostile.outcomes import Outcomes
from tests.platforms import SETUPS, Answer, Platform, children, descendants, eventually, platform
from tests.unit.runner.package_index import PackageIndex

OUTCOMES = Outcomes()
COLD_START_SECONDS = 10
LOST_SECONDS = 20
"""Until a run that nobody reports has its end: the reconciler waits 10 s for a report that is on its way."""
PROGRAMS = ("faaspot_api", "faaspot_runner spot", "faaspot_runner.worker", "valkey", "redis-server")
INNOCENT = "def main(args, context):\n    return 'fine ' + args['n']\n"
NO_BLANKS = {"FAASPOT_SPOT_BLANKS": "0"}
"""Sandboxes are counted here before and after: none may come by itself. Blanks are tested in tests/unit/runner."""
NEIGHBOUR = "import os\nBORN = os.urandom(8).hex()\ndef main(args, context):\n    return BORN\n"
SYSCALLS = textwrap.dedent('''
    import ctypes, errno, os, platform
    libc = ctypes.CDLL(None, use_errno=True)
    NUMBERS = {
        "x86_64": dict(mount=165, umount2=166, pivot_root=155, chroot=161, unshare=272, setns=308, clone3=435, keyctl=250,
            add_key=248, request_key=249, bpf=321, perf_event_open=298, userfaultfd=323, io_uring_setup=425, fsopen=430,
            open_tree=428, move_mount=429, mknod=133, ptrace=101, process_vm_readv=310, reboot=169, swapon=167,
            init_module=175, kexec_load=246, acct=163, syslog=103, settimeofday=164, sethostname=170, clone=56,
            mount_setattr=442, quotactl=179, iopl=172, open_by_handle_at=304, name_to_handle_at=303),
        "aarch64": dict(mount=40, umount2=39, pivot_root=41, chroot=51, unshare=97, setns=268, clone3=435, keyctl=219,
            add_key=217, request_key=218, bpf=280, perf_event_open=241, userfaultfd=282, io_uring_setup=425, fsopen=430,
            open_tree=428, move_mount=429, ptrace=117, process_vm_readv=270, reboot=142, swapon=224, init_module=105,
            kexec_load=104, acct=89, syslog=116, settimeofday=170, sethostname=161, clone=220, mount_setattr=442,
            quotactl=60, open_by_handle_at=265, name_to_handle_at=264),
    }[platform.machine()]
    def call(name, *arguments):
        """The name of the errno, or None where the call succeeded."""
        ctypes.set_errno(0)
        result = libc.syscall(NUMBERS[name], *arguments)
        return None if result != -1 else errno.errorcode.get(ctypes.get_errno(), "?")
''')
"""Prefix for functions that talk to the kernel directly: `call(name, ...)`."""
REACH = textwrap.dedent("""
    import os
    def reach(pids):
        named = []
        for pid in pids:
            try:
                os.kill(pid, 0)
            except ProcessLookupError:
                continue
            except PermissionError:
                pass
            named.append(pid)
        return named
""")
"""Prefix for functions that send signals: `reach(pids)` gives those of the numbers that name a process."""


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(OUTCOMES)


def pytest_sessionfinish() -> None:
    """UPDATE_GOLDEN=1 at a run of this whole directory writes the table of SECURITY.md anew."""
    if os.environ.get("UPDATE_GOLDEN"):
        OUTCOMES.write()


class Outcome:
    """A hostile run: the HTTP answer, the record, the log."""

    def __init__(self, answer: Answer, record: dict[str, Any], log: str) -> None:
        self.answer, self.record, self.log = answer, record, log

    @property
    def status(self) -> str:
        return str(self.record["status"])

    @property
    def reason(self) -> str | None:
        return self.record["reason"]  # type: ignore[no-any-return]

    @property
    def output(self) -> Any:
        return self.record["output"]

    def __repr__(self) -> str:
        return f"<{self.status} {self.reason} {str(self.record)[:1500]} log={self.log[:500]!r}>"


class Arena:
    """A platform that is attacked, with the runtime that its hostile functions are deployed to.

    `index`: where its builds get packages from, and from nowhere else.
    """

    def __init__(self, running: Platform, runtime: str, index: PackageIndex) -> None:
        self.platform = running
        self.runtime = runtime
        self.index = index
        self._names = (f"hostile-{number}" for number in itertools.count())

    def attack(self, code: str, args: dict[str, Any] | None = None, **settings: Any) -> Outcome:
        """Deploy `code` with these settings, run it once, check the common conditions, delete it."""
        with self.deployed(code, **settings) as name:
            return self.judge(self.platform.run(name, args))

    def judge(self, answer: Answer) -> Outcome:
        """The outcome of a sync run, after the common conditions were checked."""
        execution = answer.headers["Execution-Id"]
        record = self.platform.ended(execution, LOST_SECONDS)
        outcome = Outcome(answer, record, self.platform.logs(execution))
        if record["status"] != "Success":
            assert record["reason"], outcome
        self.healthy()
        return outcome

    def healthy(self) -> None:
        assert self.platform.call("GET", self.platform.url + "/healthz", token=None).status == 200
        assert self.platform.run("innocent", {"n": "one"}).json == "fine one"

    def attack_all(self, codes: Mapping[str, str], **settings: Any) -> dict[str, Outcome]:
        """The same for many at once, which is quicker where each ends by a time limit of the platform's."""
        with self.deployed_all(codes, **settings) as names, ThreadPoolExecutor(len(codes)) as threads:
            answers = dict(zip(codes, threads.map(self.platform.run, names.values()), strict=True))
            return {kind: self.judge(answer) for kind, answer in answers.items()}

    @contextlib.contextmanager
    def deployed(self, code: str, **settings: Any) -> Iterator[str]:
        """The name of a deployment that is there meanwhile; afterwards nothing of its processes may be left."""
        with self.deployed_all({"": code}, **settings) as names:
            yield names[""]

    @contextlib.contextmanager
    def deployed_all(self, codes: Mapping[str, str], **settings: Any) -> Iterator[dict[str, str]]:
        """The same for many."""
        before = self.sandboxes()
        names = {}
        with contextlib.ExitStack() as stack:
            for kind, code in codes.items():
                names[kind] = name = next(self._names)
                self.platform.deploy(name, textwrap.dedent(code), **{"runtime": self.runtime, **settings})
                stack.callback(self.platform.undeploy, name)
            yield names
        eventually(lambda: not self.since(before), 5, "processes of the deployment end")

    @contextlib.contextmanager
    def unharmed(self) -> Iterator[list[int]]:
        """Pids of the platform's own processes: after the block they live on, and so does a neighbour's warm sandbox."""
        with self.deployed(NEIGHBOUR) as neighbour:
            born = self.platform.run(neighbour).json
            standing = {pid: started(pid) for word in PROGRAMS for pid in self.platform.processes(word)}
            assert len(standing) > 5, standing
            yield sorted(standing)
            assert {pid: started(pid) for pid in standing} == standing
            assert self.platform.run(neighbour).json == born, "another sandbox was started"

    def sandboxes(self) -> set[int]:
        """Processes of sandboxes: launchers in containers, inits, zygotes, spares and what they forked."""
        assert self.platform.process is not None
        if self.runtime == "docker":
            return docker_engine.processes(docker_engine.platform_of(self.platform.data))
        spots = self.platform.processes("faaspot_runner", "spot")
        # The platform's own, and what looks like a zygote but has made them: the launchers, children of the spot.
        ours = set(self.platform.processes("faaspot_runner")).union(*map(children, spots))
        return {pid for spot in spots for pid in descendants(spot)} - ours

    def since(self, before: set[int]) -> set[int]:
        """Processes of sandboxes that did not stand `before`. What an older sandbox has forked meanwhile is its own."""
        return self.sandboxes() - before - {pid for old in before for pid in descendants(old)}


def started(pid: int) -> str | None:
    """When a process was started, in ticks of the machine; None if it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[19]
    except OSError:
        return None


@pytest.fixture(scope="session", params=[*SETUPS, "docker"])
def arena(request: pytest.FixtureRequest) -> Iterator[Arena]:
    """A platform started as root or as an ordinary user, or as root with the functions in containers."""
    setup, runtime = (request.param, "sandbox") if request.param in SETUPS else ("root", "docker")
    # One attempt: what loses its sandbox on purpose would do so each time, and each takes 12 s until it is found out.
    environ = {"FAASPOT_SPOT_COLD_START_TIMEOUT": str(COLD_START_SECONDS), "FAASPOT_MAX_ATTEMPTS": "1"}
    if runtime == "docker":
        docker_engine.needed()
        environ["FAASPOT_SPOT_DOCKER_IMAGE"] = docker_engine.IMAGE
    with PackageIndex() as index, platform(setup, environ={**environ, **only(index), **NO_BLANKS}) as running:
        running.deploy("innocent", INNOCENT, runtime=runtime)
        assert running.run("innocent", {"n": "zero"}).json == "fine zero"
        yield Arena(running, runtime, index)
        data = running.data
    if runtime == "docker":
        assert docker_engine.objects(docker_engine.platform_of(data)) == []


def only(index: PackageIndex) -> dict[str, str]:
    """The variables that make a platform's builds ask this index, with little patience, and no other."""
    patience = {"UV_HTTP_TIMEOUT": "2", "UV_HTTP_RETRIES": "0"}
    return {"UV_DEFAULT_INDEX": index.url, "PIP_FIND_LINKS": "", "PIP_EXTRA_INDEX_URL": "", **patience}


@pytest.fixture
def host_listeners() -> Any:
    """A TCP listener on loopback and an abstract unix socket on the host, which count who connects."""
    tcp = socket.create_server(("127.0.0.1", 0))
    abstract = socket.socket(socket.AF_UNIX)
    abstract.bind(f"\0faaspot-test-{os.getpid()}")
    abstract.listen()
    reached: list[str] = []

    def count(listener: socket.socket, name: str) -> None:
        while True:
            try:
                listener.accept()[0].close()
            except OSError:
                return
            reached.append(name)

    for listener, name in ((tcp, "tcp"), (abstract, "abstract")):
        threading.Thread(target=count, args=(listener, name), daemon=True).start()
    yield {"port": tcp.getsockname()[1], "abstract": f"faaspot-test-{os.getpid()}", "reached": reached}
    for listener in (tcp, abstract):
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
