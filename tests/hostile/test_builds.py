"""E25, E39, E40, B7: packages whose build, files or number shall hurt, on a running platform with an index of our own.

Where functions run in containers only wheels are installed: there a source distribution must not even start to build.
"""

from __future__ import annotations

import itertools
import os
import secrets
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.hostile.conftest import Arena
from tests.platforms import command_line, eventually
from tests.unit.runner.package_index import SILENT

MODULE = "import {0}\ndef main(args, context):\n    return {0}.VALUE\n"
NAMES = (f"rows{number}" for number in itertools.count())
WRITE_BITS, SET_BITS = 0o222, 0o7000


@pytest.fixture
def package() -> str:
    """A name that no other test has used: indexes' pages are kept by those who read them."""
    return next(NAMES)


@pytest.fixture
def marker() -> Iterator[Path]:
    """A file that code outside of sandboxes could make, whoever it runs as."""
    with tempfile.TemporaryDirectory(prefix="faaspot-tests-", dir="/var/tmp") as directory:
        os.chmod(directory, 0o777)
        yield Path(directory) / "marker"


def built(arena: Arena, name: str, requirements: str, code: str = MODULE, **settings: Any) -> dict[str, Any]:
    """The ended record of the build of a new deployment."""
    body = {"name": name, "code": code.format(requirements), "requirements": requirements, "runtime": arena.runtime}
    answer = arena.platform.call("PUT", "deployments/", {**body, **settings})
    assert answer.status == 200, answer
    return arena.platform.ended(answer.json, 60)


def environment(arena: Arena, name: str) -> Path:
    """Where the environment of a deployment was published on this machine."""
    published = arena.platform.call("GET", f"deployments/{name}").json["environment"]
    return arena.platform.data / "environments" / str(published)


def workings(arena: Arena) -> list[Path]:
    """What lies about of builds that are under way."""
    cache = arena.platform.data / "cache"
    return [*(cache / "sources").iterdir(), *cache.glob("uv*/jobs/*")]


def refused_in_containers(arena: Arena, record: dict[str, Any], marker: Path) -> bool:
    """Whether functions run in containers; then nothing was built."""
    if arena.runtime != "docker":
        return False
    assert record["reason"] == "build_failed", record
    assert "only wheels are installed for images" in record["error"]["message"], record
    assert not marker.exists()
    return True


HOSTILE = """
import os, signal, socket, sys
value = {}
def tried(name, act):
    try:
        value[name] = repr(act())[:200]
    except OSError:
        pass
def connect(family, address):
    with socket.socket(family) as it:
        it.settimeout(1)
        it.connect(address)
        return "connected"
def asked(line):
    with socket.create_connection(("127.0.0.1", 3141), 5) as it:
        it.sendall((line + " HTTP/1.0\\r\\nHost: 127.0.0.1:" + str(PORT) + "\\r\\n\\r\\n").encode())
        said = it.recv(100).split()[1].decode()
    if said == "200":
        return said
    raise OSError(said)
for path in READ:
    tried("read " + path, lambda: os.listdir(path) if os.path.isdir(path) else open(path).read())
for path in WRITE:
    tried("write " + path, lambda: open(path, "a").write("import os"))
for port in (PORT, TCP, 6379):
    for host in ("127.0.0.1", "169.254.169.254", "192.0.2.2", "10.0.0.1"):
        tried(f"connect {host}:{port}", lambda: connect(socket.AF_INET, (host, port)))
for path in (REDIS, "/var/run/docker.sock", chr(0) + ABSTRACT):
    tried("connect " + repr(path), lambda: connect(socket.AF_UNIX, path))
for line in (f"GET http://127.0.0.1:{PORT}/healthz", f"CONNECT 127.0.0.1:{PORT}", f"GET /files/../../healthz"):
    tried("relay " + line, lambda: asked(line))
for name in os.environ:
    if any(word in name for word in ("FAASPOT", "TOKEN", "SECRET", "UV_", "PASSWORD")) and os.environ[name] in TOKENS:
        value["environ " + name] = os.environ[name]
tried("kill", lambda: [os.kill(pid, 0) for pid in PIDS])
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        null = os.open("/dev/null", os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(null, descriptor)
        os.closerange(3, 256)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.execv(sys.executable, [sys.executable, "-c", "import time; time.sleep(600)", DAEMON])
    os._exit(0)
value["daemon"] = "started"
"""


def test_e39_build_code_reads_reaches_and_changes_nothing_of_the_host(
    arena: Arena, host_listeners: dict[str, Any], package: str, marker: Path
) -> None:
    data, victim, daemon = arena.platform.data, f"{package}v", f"daemon-{secrets.token_hex(8)}"
    arena.index.wheel(victim, "1.0", {f"{victim}.py": "VALUE = 'unharmed'\n"})
    with arena.deployed(MODULE.format(victim), requirements=victim) as neighbour:
        assert arena.platform.run(neighbour).json == "unharmed"
        (module,) = environment(arena, neighbour).rglob(f"{victim}.py")
        canary = data / "canary.txt"
        canary.write_text("canary")
        constants = {
            "READ": [str(path) for path in (canary, data / "admin-token", data / "keys", data / "db", module)]
            + ["/etc/shadow", "/root", "/home", "/proc/1/environ/../../self/root/root"],
            "WRITE": [
                str(marker),
                str(module),
                str(data / "evil.pth"),
                "/etc/passwd",
                "/uv",
                "/build/requirements.txt",
            ],
            "PORT": arena.platform.port,
            "TCP": host_listeners["port"],
            "REDIS": str(data / "redis" / "redis.sock"),
            "ABSTRACT": host_listeners["abstract"],
            "TOKENS": [arena.platform.token],
            "PIDS": arena.platform.processes("faaspot"),
            "DAEMON": daemon,
        }
        hook = "".join(f"{name} = {value!r}\n" for name, value in constants.items()) + HOSTILE
        arena.index.sdist(package, "1.0", hook)
        record = built(arena, package, package, sdist=True)
        eventually(lambda: not running(daemon), 2, "what the build left behind is gone")
        if not refused_in_containers(arena, record, marker):
            assert record["status"] == "Success", arena.platform.logs(record["uuid"])
            assert arena.platform.run(package).json == {"daemon": "started"}
            read_only(environment(arena, package))
        assert host_listeners["reached"] == []
        assert not marker.exists()
        assert workings(arena) == []
        assert module.read_text() == "VALUE = 'unharmed'\n"
        assert arena.platform.run(neighbour).json == "unharmed"
        arena.platform.undeploy(package)
    arena.healthy()


def running(word: str) -> list[int]:
    """Processes of this machine that have it in their command line."""
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return [pid for pid in pids if word in command_line(pid)]


def read_only(published: Path) -> None:
    """Nobody may write in it, no program of it has another's rights, and no link leads out of it."""
    owner = (published.parent / ".locks").stat().st_uid
    for path in (published, *published.rglob("*")):
        status = path.lstat()
        assert status.st_uid == owner, path
        if path.is_symlink():
            assert any(os.path.realpath(path).startswith(top) for top in (str(published), "/python/")), path
        else:
            assert not status.st_mode & (WRITE_BITS | SET_BITS), path


GREEDY = {
    "disk": ("os.posix_fallocate(os.open('/tmp/all', os.O_CREAT | os.O_WRONLY), 0, 3 << 30)", "No space left"),
    "processes": ("while True:\n    os.fork() or (os.closerange(0, 256), signal.pause())", "temporarily unavailable"),
    "memory": ("held = [b'x' * (64 << 20) for _ in range(64)]", "emory"),
}


@pytest.mark.parametrize("kind", GREEDY)
def test_e39_a_build_that_takes_all_there_is_fails_alone_and_can_be_tried_again(
    arena: Arena, package: str, marker: Path, kind: str
) -> None:
    hook, words = GREEDY[kind]
    arena.index.sdist(package, "1.0", f"import os, signal\n{hook}\n")
    record = built(arena, package, package, sdist=True)
    if not refused_in_containers(arena, record, marker):
        assert (record["status"], record["reason"]) == ("Failure", "build_failed"), record
        assert words in record["error"]["message"], record
    assert workings(arena) == []
    arena.healthy()
    arena.index.wheel(package, "1.1", {f"{package}.py": "VALUE = 'good'\n"})
    again = arena.platform.call("PATCH", f"deployments/{package}", {"requirements": f"{package}==1.1"}).json["uuid"]
    assert arena.platform.ended(again)["status"] == "Success", arena.platform.logs(again)
    assert arena.platform.run(package).json == "good"
    arena.platform.undeploy(package)


PLANT = """
import os
made = "/tmp/made/env"
os.makedirs(made, exist_ok=True)
os.symlink(TARGET, made + "/planted")
"""
"""Where the tree will be that the host takes: planted before it is made, there when it is read."""


@pytest.mark.parametrize("target", ["/etc/shadow", "../../../../../../etc/shadow", "lib/../../admin-token"])
def test_e25_a_link_that_a_build_plants_for_the_host_is_not_followed(
    arena: Arena, package: str, marker: Path, target: str
) -> None:
    environments = arena.platform.data / "environments"
    before = {*environments.iterdir(), environments / ".locks"}
    arena.index.sdist(package, "1.0", f"TARGET = {target!r}\n{PLANT}")
    record = built(arena, package, package, sdist=True)
    if not refused_in_containers(arena, record, marker):
        assert record["reason"] == "build_failed", record
        assert "the link 'planted' leads out of the environment" in record["error"]["message"], record
    eventually(lambda: set(environments.iterdir()) <= before, 2, "the tree that was refused has gone")
    arena.platform.undeploy(package)
    arena.healthy()


INSIDE = """
import os, socket, sys
site = "/tmp/made/env/lib/python%d.%d/site-packages" % sys.version_info[:2]
os.makedirs(site, exist_ok=True)
os.symlink("loop", site + "/loop")
try:
    os.mkfifo(site + "/fifo")
except PermissionError:
    pass
socket.socket(socket.AF_UNIX).bind(site + "/socket")
with open(site + "/evil.pth", "w") as file:
    file.write("import sys; sys.marked = True; open(%r, 'w')\\n" % MARKER)
"""


def test_e25_what_a_build_plants_for_the_run_is_met_only_inside_its_sandbox(
    arena: Arena, package: str, marker: Path
) -> None:
    """A loop, a pipe and a socket that would hold their reader up, and a `.pth`: none of them does, or runs, outside."""
    arena.index.sdist(package, "1.0", f"MARKER = {str(marker)!r}\n{INSIDE}")
    code = "import sys, {0}\ndef main(args, context):\n    return [{0}.VALUE, getattr(sys, 'marked', None)]\n"
    record = built(arena, package, package, code, sdist=True)
    if not refused_in_containers(arena, record, marker):
        assert record["status"] == "Success", arena.platform.logs(record["uuid"])
        assert arena.platform.run(package).json == ["built", True]
        names = {path.name for path in environment(arena, package).rglob("*")}
        assert {"loop", "evil.pth"} <= names
        assert not {"fifo", "socket"} & names
    assert not marker.exists()
    arena.platform.undeploy(package)
    arena.healthy()


EVIL = "import sys\nsys.marked = [*getattr(sys, 'marked', []), {word!r}]\ntry:\n    open({marker!r}, 'w')\nexcept OSError:\n    pass\n"


def test_e40_what_a_wheel_brings_to_be_started_with_runs_only_in_sandboxes(
    arena: Arena, package: str, marker: Path
) -> None:
    code = """
    import os, sys, {package}
    def main(args, context):
        return [getattr(sys, "marked", []), os.path.realpath("/env/bin/python"), os.path.realpath(sys.executable)]
    """
    words = {word: EVIL.format(word=word, marker=str(marker)) for word in ("sitecustomize", "usercustomize", "script")}
    line = EVIL.format(word="pth", marker=str(marker))
    scripts = f"{package}-1.0.data/scripts"
    arena.index.wheel(
        package,
        "1.0",
        {
            f"{package}.py": f"def main():\n    open({str(marker)!r}, 'w')\n",
            f"{package}.pth": f"import sys; exec({line!r})\n",
            "sitecustomize.py": words["sitecustomize"],
            "usercustomize.py": words["usercustomize"],
            f"{scripts}/uv": "#!python\n" + words["script"],
            f"{package}-1.0.dist-info/entry_points.txt": f"[console_scripts]\nsh = {package}:main\n",
        },
    )
    with arena.deployed(code.format(package=package), requirements=package) as name:
        outcome = arena.judge(arena.platform.run(name))
        marked, python, executable = outcome.output
        assert "pth" in marked, "it does run, inside; an interpreter may have a sitecustomize of its own"
        assert "script" not in marked
        assert python == executable, "the interpreter is ours"
        read_only(environment(arena, name))
    assert not marker.exists()


@pytest.mark.parametrize("script", ["python", "python3"])
def test_e40_a_script_that_would_stand_for_the_interpreter_is_not_installed(
    arena: Arena, package: str, marker: Path, script: str
) -> None:
    program = "#!python\n" + EVIL.format(word="script", marker=str(marker))
    arena.index.wheel(package, "1.0", {f"{package}.py": "VALUE = 1\n", f"{package}-1.0.data/scripts/{script}": program})
    record = built(arena, package, package)
    assert record["reason"] == "build_failed", record
    assert "reserved name" in record["error"]["message"], record
    assert not marker.exists()
    arena.platform.undeploy(package)
    arena.healthy()


def unresolvable(arena: Arena, package: str) -> dict[str, tuple[str, str]]:
    """Requirements that no index meets, and what must be said of each."""
    index = arena.index
    index.wheel(f"{package}c", "1.0")
    index.wheel(f"{package}c", "2.0")
    index.wheel(f"{package}a", "1.0", requires=[f"{package}c==1.0"])
    index.wheel(f"{package}b", "1.0", requires=[f"{package}c==2.0"])
    index.offer(f"{package}d", f"{package}d-1.0-py3-none-any.whl", b"no wheel at all")
    index.wheel(f"{package}y", "1.0", yanked="taken back")
    return {
        "nowhere": (f"{package}n", "not found"),
        "versions": (f"{package}c==3.0", f"{package}c==3.0"),
        "conflict": (f"{package}a\n{package}b", "incompatible"),
        "broken": (f"{package}d", f"{package}d"),
        "yanked": (f"{package}y", "yanked"),
        "thousands": ("\n".join(f"{package}n{number}" for number in range(2000)), "not found"),
        "silent": (SILENT, SILENT),
    }


def test_b7_requirements_that_cannot_be_met_fail_in_time_with_the_resolvers_words(arena: Arena, package: str) -> None:
    cases = unresolvable(arena, package)
    builds = {}
    for kind, (requirements, _) in cases.items():
        body = {"name": f"{package}-{kind}", "code": MODULE.format(package), "requirements": requirements}
        answer = arena.platform.call("PUT", "deployments/", {**body, "runtime": arena.runtime})
        assert answer.status == 200, answer
        builds[kind] = answer.json
    began = time.monotonic()
    for kind, build in builds.items():
        record = arena.platform.ended(build, 60)
        assert (record["status"], record["reason"]) == ("Failure", "build_failed"), (kind, record)
        assert cases[kind][1] in record["error"]["message"], (kind, record)
        kept = arena.platform.call("GET", f"deployments/{package}-{kind}").json
        assert (kept["status"], kept["reason"]) == ("failed", "build_failed"), kept
    assert time.monotonic() - began < 40
    arena.index.wheel(f"{package}n", "1.0", {f"{package}.py": "VALUE = 'at last'\n"})
    nowhere = f"{package}-nowhere"
    again = arena.platform.call("PATCH", f"deployments/{nowhere}", {"requirements": f"{package}n"}).json["uuid"]
    assert arena.platform.ended(again)["status"] == "Success", arena.platform.logs(again)
    assert arena.platform.run(nowhere).json == "at last"
    for kind in cases:
        arena.platform.undeploy(f"{package}-{kind}")
    assert workings(arena) == []
    arena.healthy()
