"""Building environments with the real uv and an index of our own, as root (then uv has another uid) and as a user."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from faaspot_runner.contract import BuildOutcome, BuildRequest
from faaspot_runner.environments import interpreters, staging
from faaspot_runner.environments.assemble import MANIFEST, assemble
from faaspot_runner.environments.build import Environments
from faaspot_runner.environments.errors import BuildError
from faaspot_runner.environments.installer import uv_environ
from tests.platforms import mount_table
from tests.unit.runner.package_index import PackageIndex

UID = 64_719 if os.geteuid() == 0 else None
SECONDS = 60.0
FOUND = interpreters.discover(os.environ)
PYTHON = interpreters.OWN_VERSION


@pytest.fixture(autouse=True)
def _read_only_trees_go(tmp_path: Path) -> Iterator[None]:
    """pytest itself cannot remove read-only directories as an ordinary user."""
    yield
    for path in tmp_path.iterdir():
        staging.remove_tree(path)


@pytest.fixture
def index() -> Iterator[PackageIndex]:
    with PackageIndex() as served:
        served.wheel("alpha", "1.0", requires=["beta>=1"])
        served.wheel("alpha", "2.0", requires=["beta>=2"])
        served.wheel("beta", "1.0")
        served.wheel("beta", "2.0")
        served.sdist("source", "1.0")
        yield served


@pytest.fixture
def environments(tmp_path: Path, index: PackageIndex) -> Environments:
    return made_in(tmp_path, index.url)


def made_in(path: Path, url: str, resolution_age: float = 0.0) -> Environments:
    environ = {"UV_DEFAULT_INDEX": url, "HOME": str(path), "UV_HTTP_RETRIES": "0", "UV_HTTP_TIMEOUT": "30"}
    return Environments(
        path / "environments", path / "cache", FOUND, environ=environ, uid=UID, resolution_age=resolution_age
    )


def build(
    environments: Environments,
    requirements: str,
    *,
    python: str = PYTHON,
    seconds: float = SECONDS,
    log: list[str] | None = None,
    cancelled: threading.Event | None = None,
) -> BuildOutcome:
    request = BuildRequest(
        execution_id="e", attempt=1, token="t", deployment="d", version=1, version_id="v",
        requirements=requirements, python=python,
    )  # fmt: skip
    asked = cancelled or threading.Event()
    lines = [] if log is None else log
    return environments.build(request, lines.append, asked.is_set, time.monotonic() + seconds)


def site(environments: Environments, outcome: BuildOutcome) -> Path:
    assert outcome.environment is not None
    return environments.path(outcome.environment) / f"lib/python{PYTHON}/site-packages"


def test_requirements_become_a_lock_and_a_published_environment(
    environments: Environments, index: PackageIndex
) -> None:
    log: list[str] = []
    outcome = build(environments, "alpha<2", log=log)
    assert outcome.packages == ("alpha==1.0", "beta==2.0")
    assert outcome.lock is not None
    assert outcome.lock.count("--hash=sha256:") == 2
    assert not outcome.reused
    assert (site(environments, outcome) / "alpha.py").read_text() == "VERSION = '1.0'\n"
    assert log[0] == f"Resolving 1 requirement for CPython {FOUND[PYTHON].full_version}"
    assert log[1].startswith("Resolved 2 packages in ")
    assert log[2].startswith("Installed 2 packages in ")
    assert log[2].endswith(f"as environment {outcome.environment}")


def test_a_published_environment_is_read_only_ours_and_for_the_sandboxs_paths(
    environments: Environments, index: PackageIndex, tmp_path: Path
) -> None:
    scripts = {"gamma.py": "x = 1\n", "gamma-1.0.data/scripts/run": "#!python\nprint(1)\n"}
    entry = {"gamma-1.0.dist-info/entry_points.txt": "[console_scripts]\ngo = gamma:main\n"}
    index.wheel("gamma", "1.0", {**scripts, **entry})
    outcome = build(environments, "gamma")
    assert outcome.environment is not None
    path = environments.path(outcome.environment)
    for entry_path in (path, *path.rglob("*")):
        status = entry_path.lstat()
        assert status.st_uid == os.geteuid()
        if not stat.S_ISLNK(status.st_mode):
            assert stat.S_IMODE(status.st_mode) in (0o444, 0o555)
    assert os.readlink(path / "bin" / "python") == FOUND[PYTHON].inside
    assert os.readlink(path / "bin" / f"python{PYTHON}") == "python"
    assert "home = /python/bin" in (path / "pyvenv.cfg").read_text()
    for script in ("run", "go"):
        assert (path / "bin" / script).read_text().startswith("#!/env/bin/python\n")
    host_paths = [str(tmp_path).encode(), b"/media/", str(FOUND[PYTHON].prefix).encode() + b"/bin/python"]
    for file in (path for path in path.rglob("*") if path.is_file() and not path.is_symlink()):
        assert not [found for found in host_paths if found in file.read_bytes()], file
    assert (path / MANIFEST).exists()
    assert sorted(entry.name for entry in path.iterdir()) == sorted(["bin", "lib", "include", "pyvenv.cfg", MANIFEST])


def test_who_knows_an_environments_name_can_go_in_whatever_the_umask_was(tmp_path: Path) -> None:
    """The launcher in a container is an ordinary uid."""
    before = os.umask(0o077)
    try:
        made_in(tmp_path, "http://127.0.0.1:9/")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "environments").stat().st_mode) == 0o711


def test_byte_code_carries_the_hash_of_its_source_and_the_path_inside(environments: Environments) -> None:
    outcome = build(environments, "beta")
    (compiled,) = (site(environments, outcome) / "__pycache__").glob("beta.*.pyc")
    data = compiled.read_bytes()
    assert int.from_bytes(data[4:8], "little") == 0b11  # hash-based, checked at import
    assert f"/env/lib/python{PYTHON}/site-packages/beta.py".encode() in data


def test_a_source_that_does_not_compile_is_installed_as_it_is(environments: Environments, index: PackageIndex) -> None:
    deep = "x = " + "(" * 5000 + ")" * 5000
    index.wheel("odd", "1.0", {"odd.py": "print 'old'\n", "deep.py": deep, "good.py": "x = 1\n"})
    outcome = build(environments, "odd")
    names = {path.name.partition(".")[0] for path in (site(environments, outcome) / "__pycache__").iterdir()}
    assert names == {"good"}


@pytest.mark.parametrize("version", [version for version in FOUND if version != PYTHON][-1:])
def test_another_interpreter_gets_an_environment_of_its_own(environments: Environments, version: str) -> None:
    one, other = build(environments, "beta"), build(environments, "beta", python=version)
    assert one.environment != other.environment
    assert other.environment is not None
    path = environments.path(other.environment)
    assert (path / f"lib/python{version}/site-packages/beta.py").exists()
    tag = version.replace(".", "")
    assert list(path.glob(f"lib/python{version}/site-packages/__pycache__/beta.cpython-{tag}.pyc"))


@pytest.mark.parametrize("requirements", ["", "\n", "beta; python_version < '3'"])
def test_nothing_to_install_needs_no_environment(environments: Environments, requirements: str) -> None:
    assert build(environments, requirements) == BuildOutcome(lock=None, environment=None)


@pytest.mark.parametrize(
    "line",
    [
        "-e {at}", "{at}", "pkg @ file://{at}", "-r {at}/secret", "--find-links {at}", "alpha\\",
        "alpha; x == '${{HOME}}'",
        "alpha # -e {at}", "alpha\r-e {at}", "alpha\x0b-e {at}", "a" * 1001,
    ],
)  # fmt: skip
def test_a_line_that_is_more_than_a_requirement_is_refused(
    environments: Environments, tmp_path: Path, line: str
) -> None:
    """The API lets none through; but who brings the request may be another spot."""
    (tmp_path / "setup.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nimport setuptools\nsetuptools.setup()\n")
    (tmp_path / "secret").write_text("alpha\n")
    with pytest.raises(BuildError, match="no requirement"):
        build(environments, f"alpha\n{line.format(at=tmp_path)}")
    assert not (tmp_path / "ran").exists()


def test_a_second_build_with_the_same_lock_reuses_the_environment(environments: Environments) -> None:
    first = build(environments, "alpha")
    assert first.environment
    os.utime(environments.path(first.environment), (1.0, 1.0))
    assert environments.unneeded([]) == {first.environment}
    assert environments.unneeded([first.environment]) == frozenset()
    log: list[str] = []
    second = build(environments, "beta\nalpha", log=log)
    assert environments.unneeded([]) == frozenset(), "what was just taken up is needed in a moment"
    assert second.environment == first.environment
    assert second.reused
    assert log[-1] == f"Environment {first.environment} was already there, reused"


def test_environments_share_the_files_of_a_package(environments: Environments) -> None:
    one, other = build(environments, "beta"), build(environments, "alpha")
    assert one.environment != other.environment
    assert (site(environments, one) / "beta.py").samefile(site(environments, other) / "beta.py")


@pytest.mark.root
@pytest.mark.skipif(UID is None, reason="needs root: uv has another uid only then")
def test_nothing_published_shares_a_file_with_what_uvs_uid_can_write(
    environments: Environments, tmp_path: Path
) -> None:
    outcome = build(environments, "alpha")
    assert outcome.environment is not None
    published = {path.lstat().st_ino for path in environments.path(outcome.environment).rglob("*")}
    writable = {path.lstat().st_ino for path in (tmp_path / "cache").rglob("*") if path.lstat().st_uid == UID}
    assert writable
    assert not published & writable


def test_a_newer_release_makes_a_new_environment_and_the_old_one_stays(
    environments: Environments, index: PackageIndex
) -> None:
    old = build(environments, "beta")
    index.wheel("beta", "3.0")
    shutil.rmtree(next((environments._cache.installer.workshop / "uv").glob("simple-*")))
    new = build(environments, "beta")
    assert new.packages == ("beta==3.0",)
    assert (site(environments, old) / "beta.py").exists()


def test_the_same_requirements_are_not_resolved_again_for_a_while(tmp_path: Path, index: PackageIndex) -> None:
    environments = made_in(tmp_path, index.url, resolution_age=600.0)
    first = build(environments, "beta")
    index.wheel("beta", "3.0")
    shutil.rmtree(next((environments._cache.installer.workshop / "uv").glob("simple-*")))
    log: list[str] = []
    second = build(environments, "beta", log=log)
    assert (second.lock, second.environment, second.reused) == (first.lock, first.environment, True)
    assert log[0].startswith("Resolved 1 package as ")
    assert build(environments, "beta>2").packages == ("beta==3.0",)


# ---------------------------------------------------------------- errors


def refused(environments: Environments, requirements: str, **more: object) -> BuildError:
    with pytest.raises(BuildError) as caught:
        build(environments, requirements, **more)  # type: ignore[arg-type]
    return caught.value


def test_a_package_that_does_not_exist_is_explained_by_the_resolver(environments: Environments) -> None:
    error = refused(environments, "missing-package")
    assert error.reason == "build_failed"
    assert "missing-package was not found" in error.message


def test_a_conflict_is_explained_by_the_resolver(environments: Environments) -> None:
    error = refused(environments, "alpha==2\nbeta<2")
    assert "depends on beta>=2" in error.message
    assert "you require beta<2" in error.message


def test_a_package_without_a_wheel_is_named_with_the_way_out(environments: Environments) -> None:
    error = refused(environments, "beta\nsource==1.0")
    first = error.message.splitlines()[0]
    assert "source==1.0" in first
    assert "--sdist" in first
    assert "source==1.0 has no usable wheels" in error.message
    assert "--no-build" not in error.message


def test_a_wheel_for_another_machine_is_no_wheel(environments: Environments, index: PackageIndex) -> None:
    index.wheel("alien", "1.0", tag="cp39-cp39-win_amd64")
    assert "alien==1.0" in refused(environments, "alien==1.0").message.splitlines()[0]


def test_errors_name_no_path_of_the_host(environments: Environments, tmp_path: Path, index: PackageIndex) -> None:
    index.offer("broken", "broken-1.0-py3-none-any.whl", b"this is no zip file")
    for requirements in ("broken", "missing-package", "source"):
        message = refused(environments, requirements).message
        assert str(tmp_path) not in message
        assert "/media" not in message
        assert sys.prefix not in message


def test_an_interpreter_that_the_spot_does_not_have_is_named_with_those_it_has(environments: Environments) -> None:
    error = refused(environments, "beta", python="3.7")
    assert "3.7" in error.message
    assert PYTHON in error.message


def test_an_index_that_is_away_is_said(tmp_path: Path) -> None:
    environments = made_in(tmp_path, "http://127.0.0.1:9/simple")
    assert "127.0.0.1:9" in refused(environments, "beta").message


def test_a_file_that_changed_after_the_lock_is_not_installed(tmp_path: Path, index: PackageIndex) -> None:
    outcome = build(made_in(tmp_path / "one", index.url), "beta==1.0")
    assert outcome.lock is not None
    index.wheel("beta", "1.0", {"beta.py": "EVIL = True\n"})
    other = made_in(tmp_path / "other", index.url)
    with pytest.raises(BuildError, match=r"(?i)hash"):
        other.ensure(outcome.lock, PYTHON, time.monotonic() + SECONDS)
    assert outcome.environment is not None
    assert not other.path(outcome.environment).exists()


# ---------------------------------------------------------------- time, cancellation, death


@contextlib.contextmanager
def silent() -> Iterator[str]:
    """An index that takes connections and never answers; its address."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}/simple"


def jobs(path: Path) -> list[Path]:
    return [*(path / "cache").glob("uv*/jobs/*"), *(path / "environments").glob(".new-*")]


def test_a_build_ends_at_its_deadline_and_leaves_nothing(tmp_path: Path) -> None:
    with silent() as url:
        environments = made_in(tmp_path, url)
        began = time.monotonic()
        error = refused(environments, "beta", seconds=1.0)
    assert error.reason == "timeout"
    assert time.monotonic() - began < 3.0
    assert jobs(tmp_path) == []
    assert uv_pids(os.getpid()) == []


def test_a_cancelled_build_ends_at_once(tmp_path: Path) -> None:
    cancelled = threading.Event()
    threading.Timer(0.3, cancelled.set).start()
    with silent() as url:
        began = time.monotonic()
        error = refused(made_in(tmp_path, url), "beta", cancelled=cancelled)
    assert error.reason == "cancelled"
    assert time.monotonic() - began < 2.0
    assert jobs(tmp_path) == []


BUILD = """
import os, sys, time
from pathlib import Path
from tests.unit.runner import test_environments_build as tests
print("ready", flush=True)
tests.build(tests.made_in(Path(sys.argv[1]), sys.argv[2]), sys.argv[3])
"""


def test_a_killed_builder_leaves_what_a_sweep_removes_and_no_process(tmp_path: Path) -> None:
    with silent() as url:
        process = subprocess.Popen([sys.executable, "-c", BUILD, tmp_path, url, "beta"], stdout=subprocess.PIPE)
        assert wait_for(lambda: uv_pids(process.pid))
        children = uv_pids(process.pid)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children))
    assert jobs(tmp_path)
    environments = made_in(tmp_path, "http://127.0.0.1:9/simple")
    environments.sweep()
    assert jobs(tmp_path) == []


def uv_pids(parent: int) -> list[int]:
    """Children that have become uv."""
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return [int(pid) for pid in children if b"pip\0compile" in _command(pid)]


def _command(pid: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def wait_for(condition: object, seconds: float = 10.0) -> object:
    """Poll another process; the condition's last value."""
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while not (value := condition()) and time.monotonic() < deadline:
        time.sleep(0.01)
    return value


FULL = """
set -e
mount -t tmpfs -o size=12m none "$1"
exec "$2" -c "$3" "$1" "$4" large
"""


def test_a_full_disk_is_a_clear_reason_and_publishes_nothing(tmp_path: Path, index: PackageIndex) -> None:
    """In a small tmpfs, which lives in a mount namespace of its own."""
    index.wheel("large", "1.0", {"large/data.bin": "x" * 30_000_000})
    place = tmp_path / "small"
    place.mkdir()
    script = BUILD.replace("tests.build(", "tests.UID = None\ntests.build(")
    unshare = ["unshare", "--user", "--map-root-user", "--mount", "--propagation", "private"]
    ended = subprocess.run(
        [*unshare, "sh", "-c", FULL, "sh", place, sys.executable, script, index.url], capture_output=True, text=True
    )
    if "unshare" in ended.stderr and "ready" not in ended.stdout:
        pytest.skip(f"no user namespaces: {ended.stderr.strip()}")
    assert "disk is full" in ended.stderr


# ---------------------------------------------------------------- many at once


def test_two_builds_of_one_environment_install_it_once(tmp_path: Path, index: PackageIndex) -> None:
    build(made_in(tmp_path, index.url), "beta")  # the skeleton and the index's pages are there
    with ThreadPoolExecutor(4) as pool:
        outcomes = list(pool.map(lambda _: build(made_in(tmp_path, index.url), "alpha"), range(4)))
    assert len({outcome.environment for outcome in outcomes}) == 1
    assert sorted(outcome.reused for outcome in outcomes) == [False, True, True, True]


def test_the_hosts_mount_table_is_the_same_after_a_build(environments: Environments) -> None:
    before = mount_table()
    build(environments, "alpha")
    assert mount_table() == before


# ---------------------------------------------------------------- keeping


def test_ensure_installs_from_the_lock_alone_whatever_the_index_has_now(tmp_path: Path, index: PackageIndex) -> None:
    outcome = build(made_in(tmp_path / "one", index.url), "alpha")
    assert outcome.lock is not None
    index.wheel("beta", "9.0")
    other = made_in(tmp_path / "other", index.url)
    path = other.ensure(outcome.lock, PYTHON, time.monotonic() + SECONDS)
    assert path.name == outcome.environment
    assert (path / f"lib/python{PYTHON}/site-packages/beta.py").read_text() == "VERSION = '2.0'\n"


def test_ensure_needs_no_index_for_packages_that_the_spot_has(tmp_path: Path, index: PackageIndex) -> None:
    environments = made_in(tmp_path, index.url)
    outcome = build(environments, "alpha")
    assert outcome.lock is not None
    assert outcome.environment is not None
    environments.remove(outcome.environment)
    assert not environments.path(outcome.environment).exists()
    index.asked.clear()
    path = environments.ensure(outcome.lock, PYTHON, time.monotonic() + SECONDS)
    assert path == environments.path(outcome.environment)
    assert (path / "pyvenv.cfg").exists()
    assert index.asked == []


@pytest.mark.parametrize("text", ["", "beta==1.0\n", "# faaspot lock 1\nbeta @ file:///etc/passwd\n"])
def test_ensure_refuses_a_text_that_is_no_lock(environments: Environments, text: str) -> None:
    with pytest.raises(BuildError, match="lock"):
        environments.ensure(text, PYTHON, time.monotonic() + SECONDS)


@pytest.mark.parametrize("name", ["", "..", "a/b", "A" * 32, "g" * 32, "a" * 31, "a" * 32 + "\n", ".locks"])
def test_only_names_of_environments_are_paths(environments: Environments, name: str) -> None:
    with pytest.raises(ValueError, match="not the name"):
        environments.path(name)
    with pytest.raises(ValueError, match="not the name"):
        environments.remove(name)


def test_removing_is_harmless_when_repeated_and_frees_everything_but_the_cache(
    environments: Environments, tmp_path: Path
) -> None:
    outcome = build(environments, "beta")
    assert outcome.environment is not None
    for _ in range(2):
        environments.remove(outcome.environment)
    assert [path.name for path in (tmp_path / "environments").rglob("*")] == [".locks"]


# ---------------------------------------------------------------- hostile wheels


def test_no_package_replaces_the_interpreter_or_its_configuration(
    environments: Environments, index: PackageIndex
) -> None:
    evil = {
        "evil.pth": "import os; os.system('touch /tmp/faaspot-evil')\n",
        "sitecustomize.py": "raise SystemExit('evil')\n",
        "evil-1.0.data/data/pyvenv.cfg": "home = /tmp\n",
        f"evil-1.0.data/data/{MANIFEST}": "{}",
    }
    index.wheel("evil", "1.0", evil)
    outcome = build(environments, "evil")
    assert outcome.environment is not None
    path = environments.path(outcome.environment)
    assert os.readlink(path / "bin" / "python") == FOUND[PYTHON].inside
    assert "home = /python/bin" in (path / "pyvenv.cfg").read_text()
    assert (path / MANIFEST).stat().st_size > 100
    assert not Path("/tmp/faaspot-evil").exists()
    assert (path / f"lib/python{PYTHON}/site-packages/evil.pth").exists()


@pytest.mark.parametrize("place", ["scripts", "data/bin"])
def test_a_script_named_python_is_refused(environments: Environments, index: PackageIndex, place: str) -> None:
    index.wheel("evil", "1.0", {f"evil-1.0.data/{place}/python": "#!/bin/sh\n"})
    assert "reserved name" in refused(environments, "evil").message


@pytest.mark.parametrize("name", ["../../../evil.py", "/tmp/faaspot-evil.py", "evil-1.0.data/data/../../../../evil.py"])
def test_a_wheel_cannot_write_outside(
    environments: Environments, index: PackageIndex, tmp_path: Path, name: str
) -> None:
    index.wheel("evil", "1.0", {name: "x = 1\n"})
    with contextlib.suppress(BuildError):
        build(environments, "evil")
    assert not Path("/tmp/faaspot-evil.py").exists()
    outside = [path for path in tmp_path.rglob("evil.py") if "cache" not in path.parts]
    assert not outside or all(path.is_relative_to(tmp_path / "environments") for path in outside)


def test_a_link_in_a_wheel_leads_nowhere_outside(environments: Environments, index: PackageIndex) -> None:
    import io
    import zipfile

    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as wheel:
        link = zipfile.ZipInfo("secret")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        wheel.writestr(link, "/etc/shadow")
        wheel.writestr("evil-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: evil\nVersion: 1.0\n")
        wheel.writestr("evil-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr("evil-1.0.dist-info/RECORD", "secret,,\n")
    index.offer("evil", "evil-1.0-py3-none-any.whl", data.getvalue())
    try:
        outcome = build(environments, "evil")
    except BuildError:
        return
    secret = site(environments, outcome) / "secret"
    assert not secret.is_symlink()
    assert secret.read_text() == "/etc/shadow"


def test_where_two_parts_have_the_same_path_the_earlier_ones_stays(tmp_path: Path) -> None:
    skeleton, evil, new = tmp_path / "skeleton", tmp_path / "evil", tmp_path / "new"
    for part in (skeleton, evil):
        (part / "lib").mkdir(parents=True)
        (part / "lib" / part.name).write_text(part.name)
        (part / "same").write_text(part.name)
    (skeleton / "bin").mkdir()
    (skeleton / "bin" / "python").symlink_to("/python/bin/python3")
    (evil / "bin").symlink_to("/etc")
    (skeleton / "file").write_text("skeleton")
    (evil / "file").mkdir()
    (evil / "file" / "evil").write_text("evil")
    new.mkdir()
    assemble(new, (skeleton, evil), "{}")
    assert (new / "same").read_text() == "skeleton"
    assert (new / "file").read_text() == "skeleton"
    assert {path.name for path in (new / "lib").iterdir()} == {"skeleton", "evil"}
    assert os.readlink(new / "bin" / "python") == "/python/bin/python3"


# ---------------------------------------------------------------- what uv is given


def test_uv_gets_indexes_proxies_and_certificates_and_nothing_else() -> None:
    said = {
        "UV_DEFAULT_INDEX": "https://a.example/simple", "UV_INDEX_PRIVATE_PASSWORD": "p", "HTTPS_PROXY": "http://p:1",
        "no_proxy": "x", "SSL_CERT_FILE": "/ca.pem", "UV_CACHE_DIR": "/x", "UV_PYTHON": "/x", "UV_TARGET": "/x",
        "FAASPOT_REDIS_PASSWORD": "secret", "AWS_SECRET_ACCESS_KEY": "secret", "PYTHONPATH": "/x", "HOME": "/root",
        "LD_PRELOAD": "/x", "UV_OFFLINE": "1",
    }  # fmt: skip
    given = uv_environ(said)
    kept = {"UV_DEFAULT_INDEX", "UV_INDEX_PRIVATE_PASSWORD", "HTTPS_PROXY", "no_proxy", "SSL_CERT_FILE"}
    assert set(given) == kept | {"PATH", "LANG"}
    assert given["PATH"] == "/usr/bin:/bin"


def test_what_was_said_to_pip_counts_unless_uv_was_told_otherwise() -> None:
    pip = {"PIP_INDEX_URL": "https://pip.example", "PIP_FIND_LINKS": "/a /b", "PIP_CERT": "/pip.pem"}
    assert uv_environ(pip)["UV_DEFAULT_INDEX"] == "https://pip.example"
    assert uv_environ(pip)["UV_FIND_LINKS"] == "/a,/b"
    assert uv_environ({**pip, "REQUESTS_CA_BUNDLE": "/r.pem"})["SSL_CERT_FILE"] == "/pip.pem"
    both = uv_environ({**pip, "UV_INDEX_URL": "https://uv.example", "SSL_CERT_FILE": "/uv.pem"})
    assert both["UV_DEFAULT_INDEX"] == "https://uv.example"
    assert both["SSL_CERT_FILE"] == "/uv.pem"
