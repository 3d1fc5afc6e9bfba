"""Source distributions: their code runs in real sandboxes, reaches the index, and nothing else of the host."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from faaspot_runner.contract import BuildOutcome, BuildRequest, Limits
from faaspot_runner.environments import staging
from faaspot_runner.environments.build import Environments
from faaspot_runner.environments.errors import BuildError
from faaspot_runner.sandbox.features import missing_for_sandbox
from faaspot_runner.sandbox.launch import run_command
from tests.unit.runner.package_index import PackageIndex
from tests.unit.runner.test_environments_build import FOUND, PYTHON, SECONDS, UID, jobs, made_in

MISSING = missing_for_sandbox()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING), reason=f"no sandboxes here: {[feature.name for feature in MISSING]}"),
]


@pytest.fixture(autouse=True)
def _read_only_trees_go(tmp_path: Path) -> Iterator[None]:
    """pytest itself cannot remove read-only directories as an ordinary user."""
    yield
    for path in tmp_path.iterdir():
        staging.remove_tree(path)


@pytest.fixture
def index() -> Iterator[PackageIndex]:
    with PackageIndex() as served:
        served.wheel("beta", "1.0")
        yield served


@pytest.fixture
def environments(tmp_path: Path, index: PackageIndex) -> Environments:
    return made_in(tmp_path, index.url)


def build(
    environments: Environments,
    requirements: str,
    *,
    sdist: bool = True,
    seconds: float = SECONDS,
    log: list[str] | None = None,
    cancelled: threading.Event | None = None,
) -> BuildOutcome:
    request = BuildRequest(
        execution_id="e", attempt=1, token="t", deployment="d", version=1, version_id="v",
        requirements=requirements, python=PYTHON, sdist=sdist,
    )  # fmt: skip
    lines = [] if log is None else log
    asked = cancelled or threading.Event()
    return environments.build(request, lines.append, asked.is_set, time.monotonic() + seconds)


def value(environments: Environments, outcome: BuildOutcome) -> object:
    """What the build of `source` left as VALUE, read as text: nothing of it is imported here."""
    assert outcome.environment is not None
    path = environments.path(outcome.environment) / f"lib/python{PYTHON}/site-packages/source.py"
    import ast

    return ast.literal_eval(path.read_text().removeprefix("VALUE = "))


def test_a_source_distribution_is_built_and_installed(environments: Environments, index: PackageIndex) -> None:
    index.sdist("source", "1.0")
    log: list[str] = []
    outcome = build(environments, "source\nbeta", log=log)
    assert outcome.packages == ("beta==1.0", "source==1.0")
    assert value(environments, outcome) == "built"
    assert outcome.lock is not None
    assert "source distributions" in outcome.lock.splitlines()[0]
    assert any("Built source" in line for line in log)
    again = build(environments, "beta\nsource")
    assert again.environment == outcome.environment
    assert again.reused


def test_without_the_flag_it_is_refused_with_the_way_out(environments: Environments, index: PackageIndex) -> None:
    index.sdist("source", "1.0", "raise SystemExit('it ran')")
    with pytest.raises(BuildError, match="--sdist") as caught:
        build(environments, "source", sdist=False)
    assert "it ran" not in caught.value.message


def test_with_the_flag_wheels_are_still_preferred(environments: Environments, index: PackageIndex) -> None:
    plain = build(environments, "beta", sdist=False)
    assert build(environments, "beta", sdist=True).environment == plain.environment


def test_what_was_built_is_published_as_read_only_files_of_ours(
    environments: Environments, index: PackageIndex, tmp_path: Path
) -> None:
    index.sdist("source", "1.0")
    outcome = build(environments, "source")
    assert outcome.environment is not None
    path = environments.path(outcome.environment)
    for entry in (path, *path.rglob("*")):
        status = entry.lstat()
        assert status.st_uid == os.geteuid()
        assert entry.is_symlink() or not status.st_mode & 0o7222
    assert list((path / f"lib/python{PYTHON}/site-packages/__pycache__").glob("source.*.pyc"))
    assert list((tmp_path / "cache" / "layers").iterdir()) == []
    assert list((tmp_path / "cache" / "sources").iterdir()) == []


HOSTILE = """
import os, socket
value = {}
def tried(name, function):
    try:
        value[name] = repr(function())
    except OSError as error:
        value[name] = None
def connect(address):
    with socket.create_connection(address, 2):
        return "connected"
tried("canary", lambda: open(CANARY).read())
tried("shadow", lambda: open("/etc/shadow").read())
tried("write", lambda: open(MARKER, "w").write("x"))
tried("index", lambda: connect(("127.0.0.1", PORT)))
tried("internet", lambda: connect(("192.0.2.1", 80)))
tried("metadata", lambda: connect(("169.254.169.254", 80)))
tried("uv", lambda: open("/uv", "ab"))
tried("input", lambda: open("/build/requirements.txt", "a"))
tried("python", lambda: open(os.path.join(os.path.dirname(os.__file__), "evil.py"), "w"))
value["environ"] = sorted(os.environ)
value["uid"] = os.getuid()
if os.fork() == 0:
    os.setsid()
    os.closerange(0, 256)
    if os.fork() == 0:
        import time
        time.sleep(600)
    os._exit(0)
"""


def test_build_code_sees_nothing_of_the_host_and_reaches_no_address(
    environments: Environments, index: PackageIndex, tmp_path: Path
) -> None:
    canary = tmp_path / "canary"
    canary.write_text("SECRET-CANARY")
    marker = tmp_path / "marker"
    port = index.url.rsplit(":", 1)[1].split("/")[0]
    constants = f"CANARY, MARKER, PORT = {str(canary)!r}, {str(marker)!r}, {port}\n"
    index.sdist("source", "1.0", constants + HOSTILE)
    outcome = build(environments, "source")
    told = value(environments, outcome)
    assert isinstance(told, dict)
    environ = told.pop("environ")
    assert told.pop("uid") == 1000
    assert {name: result for name, result in told.items() if result is not None} == {}
    assert not [name for name in environ if "FAASPOT" in name or "TOKEN" in name or "REDIS" in name]
    assert not marker.exists()


def test_code_that_runs_while_resolving_is_in_a_sandbox_too(
    environments: Environments, index: PackageIndex, tmp_path: Path
) -> None:
    """The resolver asks the build backend for metadata; here importing the backend already does something."""
    marker = tmp_path / "marker"
    index.sdist("source", "1.0")
    name, data = next(iter(index._files["source"].items()))
    index.offer("source", name, _with_backend(data, f"open({str(marker)!r}, 'w')"))
    with pytest.raises(BuildError, match="Building from source failed"):
        build(environments, "source")
    assert not marker.exists()


def _with_backend(data: bytes, statement: str) -> bytes:
    import io
    import tarfile

    out = io.BytesIO()
    with tarfile.open(fileobj=io.BytesIO(data)) as old, tarfile.open(fileobj=out, mode="w:gz") as new:
        for member in old:
            file = old.extractfile(member)
            assert file is not None
            text = file.read()
            if member.name.endswith("backend.py"):
                text = statement.encode() + b"\n" + text
            member.size = len(text)
            new.addfile(member, io.BytesIO(text))
    return out.getvalue()


def test_a_failing_build_is_told_in_its_own_words(
    environments: Environments, index: PackageIndex, tmp_path: Path
) -> None:
    index.sdist("source", "1.0", "raise RuntimeError('the compiler is missing')")
    log: list[str] = []
    with pytest.raises(BuildError, match="the compiler is missing") as caught:
        build(environments, "source", log=log)
    assert caught.value.reason == "build_failed"
    assert str(tmp_path) not in caught.value.message
    assert any("the compiler is missing" in line for line in log)
    assert [path.name for path in (tmp_path / "environments").iterdir()] == [".locks"]
    assert jobs(tmp_path) == []


def test_an_endless_build_ends_at_its_deadline(environments: Environments, index: PackageIndex) -> None:
    index.sdist("source", "1.0", "while True: pass")
    began = time.monotonic()
    with pytest.raises(BuildError) as caught:
        build(environments, "source", seconds=4)
    assert caught.value.reason == "timeout"
    assert time.monotonic() - began < 8


def test_a_cancelled_build_ends_at_once(environments: Environments, index: PackageIndex) -> None:
    index.sdist("source", "1.0", "while True: pass")
    cancelled = threading.Event()
    threading.Timer(2.0, cancelled.set).start()
    began = time.monotonic()
    with pytest.raises(BuildError) as caught:
        build(environments, "source", cancelled=cancelled)
    assert caught.value.reason == "cancelled"
    assert time.monotonic() - began < 8


def test_ensure_builds_again_from_the_lock_alone(tmp_path: Path, index: PackageIndex) -> None:
    index.sdist("source", "1.0")
    outcome = build(made_in(tmp_path / "one", index.url), "source")
    assert outcome.lock is not None
    index.sdist("source", "2.0")
    other = made_in(tmp_path / "other", index.url)
    path = other.ensure(outcome.lock, PYTHON, time.monotonic() + SECONDS)
    assert path.name == outcome.environment
    assert (path / f"lib/python{PYTHON}/site-packages/source-1.0.dist-info").is_dir()


def test_a_lock_with_wheels_never_gets_what_a_build_made(environments: Environments, index: PackageIndex) -> None:
    """A wheel appears later for the very version that was built from source: another name, another environment."""
    index.sdist("source", "1.0")
    built = build(environments, "source")
    index.wheel("source", "1.0", {"source.py": "VALUE = 'wheel'\n"})
    other = made_in(environments.path(built.environment or "").parent.parent / "later", index.url)
    assert build(other, "source").environment != built.environment


def test_an_environment_works_in_a_sandbox_where_its_pth_runs(environments: Environments, index: PackageIndex) -> None:
    """The one place where a deployment's interpreter starts."""
    index.wheel("evil", "1.0", {"evil.pth": "import sys; sys.marked = 'pth ran'\n", "evil.py": "x = 1\n"})
    outcome = build(environments, "evil")
    assert outcome.environment is not None
    code = "import sys, evil; print(sys.marked, evil.__file__, evil.__cached__, sys.prefix)"
    command = run_command(
        ["/env/bin/python", "-I", "-c", code],
        python=FOUND[PYTHON], limits=Limits(), timeout=30, environment=environments.path(outcome.environment),
    )  # fmt: skip
    result = asyncio.run(command)
    site = f"/env/lib/python{PYTHON}/site-packages"
    assert result.reason is None, result
    tag = "cpython-" + PYTHON.replace(".", "")
    assert result.log.split("\n")[0] == f"pth ran {site}/evil.py {site}/__pycache__/evil.{tag}.pyc /env"


def test_the_example_of_the_first_faaspots_documentation_is_built_where_it_is_allowed(tmp_path: Path) -> None:
    """`Jinja2==2.7.2` from the machine's own package index: it has no wheel."""
    environments = Environments(tmp_path / "environments", tmp_path / "cache", FOUND, environ=os.environ, uid=UID)
    with pytest.raises(BuildError) as caught:
        build(environments, "Jinja2==2.7.2", sdist=False)
    if "has no usable wheels" not in caught.value.message:
        pytest.skip(f"no package index within reach: {caught.value.message}")
    assert "no wheel of jinja2==2.7.2" in caught.value.message
    assert "--sdist" in caught.value.message
    outcome = build(environments, "Jinja2==2.7.2", seconds=180)
    assert "jinja2==2.7.2" in outcome.packages
    assert outcome.environment is not None
    path = environments.path(outcome.environment)
    assert (path / f"lib/python{PYTHON}/site-packages/jinja2/environment.py").exists()
