"""Starts the whole platform as a person would, by `fas up`, as root or as an ordinary user, and talks to it.

Used by the end-to-end, hostile and fault suites. Nothing here reaches into the packages under test: commands and
HTTP only.
"""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import json
import os
import re
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
ORDINARY_UID = 61_234
"""An unnamed uid: nobody's files, nobody's processes, so what is left over is seen."""
SETUPS = ("root", "user") if os.geteuid() == 0 else ("user",)


class Answer:
    """One HTTP answer: status, headers, text, and the JSON in it."""

    def __init__(self, status: int, headers: dict[str, str], text: str) -> None:
        self.status, self.headers, self.text = status, headers, text

    @property
    def json(self) -> Any:
        return json.loads(self.text)

    def __repr__(self) -> str:
        return f"<{self.status} {self.text[:2000]}>"


def eventually(check: Callable[[], Any], seconds: float = 10.0, what: str = "") -> Any:
    """The first true value of `check`, asked again until the deadline passes. For other processes' doings only."""
    deadline = time.monotonic() + seconds
    while True:
        value = check()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what or check} (last: {value!r})")
        time.sleep(0.02)


@cache
def user_python() -> str:
    """A Python with the project's built wheel that an ordinary uid can run.

    An ordinary user takes the one that runs the tests. Root builds a wheel and installs it, with Debian's or any other
    interpreter that stands in a place open to all, into a world-readable directory of its own.
    """
    if os.geteuid() != 0:
        return sys.executable
    home = Path(tempfile.mkdtemp(prefix="faaspot-tests-", dir="/var/tmp"))
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    home.chmod(0o755)
    base = _open_to_all()
    uv = str(Path(sys.executable).with_name("uv"))
    run = {"check": True, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    environ = {**os.environ, "UV_CACHE_DIR": str(home / "cache")}
    try:
        subprocess.run(
            [uv, "build", "--wheel", "--quiet", "--out-dir", str(home / "dist"), str(ROOT)], **run, env=environ
        )
        subprocess.run([uv, "venv", "--quiet", "--python", base, str(home / "venv")], **run, env=environ)
        wheel = next((home / "dist").glob("*.whl"))
        python = str(home / "venv" / "bin" / "python")
        whole = f"{wheel}[server,postgres,s3]"
        subprocess.run([uv, "pip", "install", "--quiet", "--python", python, whole], **run, env=environ)
    except subprocess.CalledProcessError as error:
        raise AssertionError(f"{error}\n{error.stdout}") from error
    shutil.rmtree(home / "cache", ignore_errors=True)
    return python


def _open_to_all() -> str:
    """An interpreter, 3.11 or newer, that an ordinary uid can start."""
    for candidate in ("/usr/bin/python3", "/usr/local/bin/python3", sys.executable):
        check = [candidate, "-c", "import sys; sys.exit(sys.version_info < (3, 11))"]
        with contextlib.suppress(OSError):
            done = subprocess.run(check, user=ORDINARY_UID, group=ORDINARY_UID, extra_groups=[], check=False, cwd="/")
            if done.returncode == 0:
                return candidate
    raise AssertionError("no Python 3.11+ that an ordinary user can start: apt-get install python3 python3-venv")


@dataclass
class Platform:
    """A running platform. `setup` is "root" or "user": who started it."""

    setup: str
    home: Path
    options: tuple[str, ...] = ()
    environ: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None
    url: str = ""
    token: str = ""

    @property
    def data(self) -> Path:
        return self.home / "data"

    @property
    def certificate(self) -> str:
        """The file that it serves https with; "" for http."""
        return self.options[self.options.index("--certfile") + 1] if "--certfile" in self.options else ""

    @property
    def _trust(self) -> ssl.SSLContext | None:
        return ssl.create_default_context(cafile=self.certificate) if self.certificate else None

    @property
    def host(self) -> str:
        return "127.0.0.1"

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])

    @property
    def python(self) -> str:
        return user_python() if self.setup == "user" else sys.executable

    @property
    def command(self) -> str:
        """The `fas` that stands beside the interpreter."""
        return str(Path(self.python).with_name("fas"))

    def _who(self) -> dict[str, Any]:
        if self.setup == "user" and os.geteuid() == 0:
            return {"user": ORDINARY_UID, "group": ORDINARY_UID, "extra_groups": []}
        return {}

    def _environ(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("FAASPOT_", "PYTEST", "COV"))}
        return {
            **kept,
            "HOME": str(self.home),
            "FAASPOT_DIR": str(self.home / "profiles"),
            "NO_COLOR": "1",
            **self.environ,
        }

    # ------------------------------------------------------------ life

    def start(self, seconds: float = 60.0) -> Platform:
        """`fas up` on a free port; returns when it says that it is ready."""
        command = [self.command, "up", "--data-dir", str(self.data), "--port", "0", *self.options]
        self.process = None
        with (self.home / "up.log").open("a") as output:
            self.process = subprocess.Popen(
                command, stdout=output, stderr=subprocess.STDOUT, cwd=self.home, env=self._environ(), **self._who()
            )
        self.url = eventually(self._ready, seconds, "fas up says its address")
        self.token = (self.data / "admin-token").read_text().strip()
        return self

    def _ready(self) -> str | None:
        assert self.process is not None
        text = (self.home / "up.log").read_text()
        assert self.process.poll() is None, f"fas up ended with {self.process.returncode}:\n{text}"
        profile = self.home / "profiles" / "fasconf.yaml"
        here = f"{'https' if self.certificate else 'http'}://127.0.0.1:"
        started = [line for line in text.splitlines() if here in line]
        if not started or not profile.exists():
            return None
        address = started[-1].split(here)[1]
        digits = address[: len(address) - len(address.lstrip("0123456789"))]
        url = f"{here}{digits}"
        with contextlib.suppress(OSError):
            urllib.request.urlopen(url + "/healthz", timeout=2, context=self._trust).close()
            return url
        return None

    def stop(self, seconds: float = 40.0) -> int:
        """SIGTERM, as an operator would; the exit code."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.terminate()
        code = self.process.wait(seconds)
        self.process = None
        return code

    def restart(self) -> Platform:
        self.stop()
        (self.home / "up.log").unlink()
        return self.start()

    def console(self) -> str:
        return (self.home / "up.log").read_text()

    def processes(self, *words: str) -> list[int]:
        """Pids of this platform's processes (by its data directory or ancestry) whose command line has all `words`."""
        assert self.process is not None
        found = []
        for pid in descendants(self.process.pid):
            line = command_line(pid)
            if line and all(word in line for word in words):
                found.append(pid)
        return found

    def __enter__(self) -> Platform:
        return self.start()

    def __exit__(self, *_: object) -> None:
        if self.process is not None:
            try:
                self.stop()
            except subprocess.TimeoutExpired:
                self.process.send_signal(signal.SIGKILL)
                self.process.wait()
                raise

    # ------------------------------------------------------------ talking

    def fas(
        self, *arguments: str, check: bool = True, stdin: str | None = None, **more: Any
    ) -> subprocess.CompletedProcess[str]:
        """The `fas` command as this platform's person types it, with the profile that `fas up` wrote."""
        done = subprocess.run(
            [self.command, *arguments],
            capture_output=True,
            text=True,
            check=False,
            cwd=more.pop("cwd", self.home),
            env=self._environ(),
            input=stdin,
            timeout=more.pop("timeout", 120),
            **self._who(),
        )
        if check and done.returncode != 0:
            raise AssertionError(f"fas {' '.join(arguments)} -> {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done

    def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        raw: bytes | None = None,
        token: str | None = "",
        headers: dict[str, str] | None = None,
        timeout: float = 120.0,
    ) -> Answer:
        """One HTTP request under /v1; `body` as JSON, or `raw` as it is. `token` None: none is sent."""
        data = raw if raw is not None else (None if body is None else json.dumps(body).encode())
        sent = {"Content-Type": "application/json", **(headers or {})}
        if token is not None:
            sent["Authorization"] = f"Token {token or self.token}"
        url = path if path.startswith("http") else self.url + (path if path.startswith("/") else f"/v1/{path}")
        request = urllib.request.Request(url, data=data, method=method, headers=sent)
        try:
            with urllib.request.urlopen(request, timeout=timeout, context=self._trust) as answer:
                return Answer(answer.status, dict(answer.headers), answer.read().decode("utf-8", "surrogateescape"))
        except urllib.error.HTTPError as error:
            with error:
                return Answer(error.code, dict(error.headers), error.read().decode("utf-8", "surrogateescape"))

    def record(self, execution: str) -> dict[str, Any]:
        answer = self.call("GET", f"executions/{execution}")
        assert answer.status == 200, answer
        found: dict[str, Any] = answer.json
        return found

    def ended(self, execution: str, seconds: float = 60.0) -> dict[str, Any]:
        """The record of `execution` once it is terminal."""

        def terminal() -> dict[str, Any] | None:
            record = self.record(execution)
            return record if record["status"] in ("Success", "Failure", "Cancelled") else None

        found: dict[str, Any] = eventually(terminal, seconds, f"execution {execution} ends")
        return found

    def deploy(self, name: str, code: str, **settings: Any) -> str:
        """Create a deployment and wait for its build; the build's id. Fails unless it succeeds."""
        answer = self.call("PUT", "deployments/", {"name": name, "code": code, **settings})
        assert answer.status == 200, answer
        record = self.ended(answer.json, 300)
        assert record["status"] == "Success", (record, self.logs(answer.json))
        return str(answer.json)

    def undeploy(self, name: str) -> None:
        assert self.call("DELETE", f"deployments/{name}").status == 200

    def run(self, name: str, args: dict[str, Any] | None = None, **more: Any) -> Answer:
        """A sync run."""
        return self.call("POST", f"sync/deployments/{name}/rpc/", args or {}, **more)

    def start_run(self, name: str, args: dict[str, Any] | None = None) -> str:
        """A background run; its id."""
        answer = self.call("POST", f"deployments/{name}/rpc/", args or {})
        assert answer.status == 200, answer
        return str(answer.json)

    def logs(self, execution: str) -> str:
        return self.call("GET", f"executions/{execution}/logs").text


@contextlib.contextmanager
def platform(setup: str, *options: str, environ: dict[str, str] | None = None) -> Iterator[Platform]:
    """A platform in a home of its own that is gone afterwards."""
    home = Path(tempfile.mkdtemp(prefix="faaspot-e2e-", dir="/tmp"))
    if setup == "user" and os.geteuid() == 0:
        os.chown(home, ORDINARY_UID, ORDINARY_UID)
    try:
        with Platform(setup, home, options, environ or {}) as running:
            yield running
    finally:
        shutil.rmtree(home, ignore_errors=False)


# ---------------------------------------------------------------- what is on this machine


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def descendants(pid: int) -> list[int]:
    """Pids of all that descends from `pid`, itself left out."""
    found, queue = [], [pid]
    while queue:
        pids = children(queue.pop())
        found += pids
        queue += pids
    return found


def children(pid: int) -> list[int]:
    """Pids of those that `pid` has started itself, whichever of its threads did."""
    found: list[int] = []
    threads: list[str] = []
    with contextlib.suppress(OSError):  # it has ended meanwhile, as its threads may have
        threads = os.listdir(f"/proc/{pid}/task")
    for thread in threads:
        with contextlib.suppress(OSError):
            found += [int(child) for child in Path(f"/proc/{pid}/task/{thread}/children").read_text().split()]
    return found


ELSEWHERE = re.compile(r"/var/lib/docker.*|/run/docker.*|/tmp/faaspot-e2e-chaos-[^/]*/data")
"""Mounts of a container engine, whose containers come and go as they like, and the disks of the faults' own worlds."""


def mount_table() -> str:
    """The host's mounts, without those of `ELSEWHERE`: in another lane tests go on meanwhile."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return "\n".join(line for line in lines if not ELSEWHERE.fullmatch(line.split()[4]))


@dataclass(frozen=True)
class Traces:
    """What a platform could leave behind on the host."""

    mounts: frozenset[str]
    cgroups: frozenset[str]
    temporary: frozenset[str]
    links: frozenset[str]

    @classmethod
    def now(cls) -> Traces:
        mounts = frozenset(mount_table().splitlines())
        cgroups = frozenset(str(path) for top in Path("/sys/fs/cgroup").glob("*") for path in top.glob("*faaspot*"))
        temporary = frozenset(
            str(path)
            for top in ("/tmp", "/var/tmp", "/dev/shm", "/run", "/var/run")
            for path in Path(top).glob("*faaspot*")
            if not path.name.startswith(("faaspot-tests-", "faaspot-e2e-"))
        )
        links = frozenset(path.name for path in Path("/sys/class/net").iterdir())
        return cls(mounts, cgroups, temporary, links)

    @classmethod
    def since(cls, before: Traces) -> list[str]:
        """What is there now and was not before."""
        now = cls.now()
        pairs = zip(dataclasses.astuple(now), dataclasses.astuple(before), strict=True)
        return sorted(trace for present, past in pairs for trace in present - past)


def sandboxed() -> list[str]:
    """Host-visible processes of any faaspot sandbox: those of throw-away uids, or started with our agent."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            line = command_line(int(entry.name))
            if "faaspot_runner/agent" in line or "faaspot-agent" in line:
                found.append(f"{entry.name} {line}")
    return found
