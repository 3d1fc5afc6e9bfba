"""Taking over trees that others made, by descriptor or as a stream: plain files, nothing else, nothing outside."""

from __future__ import annotations

import io
import json
import os
import stat
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from faaspot_runner.environments import inside, staging
from faaspot_runner.environments.cache import run_by_environment
from faaspot_runner.environments.errors import BuildError
from faaspot_runner.environments.inside import parcel
from faaspot_runner.environments.tree import MAX_DEPTH, Budget, link_stays_inside, take_over
from faaspot_runner.environments.unpack import MAX_HEAD_BYTES, ParcelError, unpack

Transfer = Callable[[Path, Path], None]


def by_descriptor(source: Path, destination: Path) -> None:
    descriptor = os.open(source, os.O_RDONLY | os.O_DIRECTORY)
    try:
        take_over(descriptor, destination, rewrite=run_by_environment)
    finally:
        os.close(descriptor)


def by_stream(source: Path, destination: Path) -> None:
    stream = io.BytesIO()
    parcel.send(str(source), stream)
    stream.seek(0)
    unpack(stream, destination, rewrite=run_by_environment)


@pytest.fixture(autouse=True)
def _read_only_trees_go(tmp_path: Path) -> Iterator[None]:
    """pytest itself cannot remove read-only directories as an ordinary user."""
    yield
    for path in tmp_path.iterdir():
        staging.remove_tree(path)


@pytest.fixture(params=[by_descriptor, by_stream])
def transfer(request: pytest.FixtureRequest) -> Transfer:
    way: Transfer = request.param
    return way


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.mkdir()
    return path


@pytest.fixture
def destination(tmp_path: Path) -> Path:
    path = tmp_path / "destination"
    path.mkdir()
    return path


def test_files_directories_and_inner_links_arrive_read_only(
    source: Path, destination: Path, transfer: Transfer
) -> None:
    (source / "lib").mkdir()
    (source / "lib" / "large").write_bytes(os.urandom(3_000_000))
    (source / "lib" / "program").write_text("x")
    (source / "lib" / "program").chmod(0o6755)
    (source / "lib64").symlink_to("lib")
    (source / "empty").write_text("")
    transfer(source, destination)
    assert (destination / "lib" / "large").read_bytes() == (source / "lib" / "large").read_bytes()
    assert os.readlink(destination / "lib64") == "lib"
    modes = {path.name: stat.S_IMODE(path.lstat().st_mode) for path in destination.rglob("*") if not path.is_symlink()}
    assert modes == {"lib": 0o555, "large": 0o444, "program": 0o555, "empty": 0o444}
    assert stat.S_IMODE(destination.stat().st_mode) == 0o555


def test_a_link_out_of_the_tree_is_refused(source: Path, destination: Path, transfer: Transfer) -> None:
    (source / "passwd").symlink_to("/etc/passwd")
    with pytest.raises(BuildError, match="leads out"):
        transfer(source, destination)
    assert not os.path.lexists(destination / "passwd")


def test_a_file_behind_a_link_is_not_copied(source: Path, destination: Path, transfer: Transfer) -> None:
    (source / "real").mkdir()
    (source / "real" / "a").write_text("a")
    (source / "alias").symlink_to("real")
    transfer(source, destination)
    assert (destination / "alias").is_symlink()


def test_scripts_of_python_start_the_interpreter_of_the_environment(
    source: Path, destination: Path, transfer: Transfer
) -> None:
    scripts = {
        "plain": "#!/usr/bin/python3.11\nimport x\n",
        "long": "#!/bin/sh\n'''exec' '/a b/python' \"$0\" \"$@\"\n' '''\nimport x\n",
        "env": "#!/usr/bin/env python3\nimport x\n",
        "shell": "#!/bin/sh\npython x\n",
        "binary": "\x7fELF #!/usr/bin/python\n",
    }
    (source / "bin").mkdir()
    for name, text in scripts.items():
        (source / "bin" / name).write_text(text)
    (source / "module.py").write_text(scripts["plain"])
    transfer(source, destination)
    started = "#!/env/bin/python\nimport x\n"
    assert {name: (destination / "bin" / name).read_text() for name in scripts} == {
        "plain": started, "long": started, "env": started, "shell": scripts["shell"], "binary": scripts["binary"],
    }  # fmt: skip
    assert (destination / "module.py").read_text() == scripts["plain"]


def test_a_fifo_is_refused_and_not_waited_for(source: Path, destination: Path) -> None:
    os.mkfifo(source / "pipe")
    with pytest.raises(BuildError, match="pipe"):
        by_descriptor(source, destination)


def test_a_tree_too_deep_is_refused(source: Path, destination: Path, transfer: Transfer) -> None:
    source.joinpath(*["d"] * (MAX_DEPTH + 3)).mkdir(parents=True)
    with pytest.raises(BuildError):
        transfer(source, destination)


@pytest.mark.parametrize("budget", [Budget(size=10), Budget(entries=2)])
def test_a_tree_too_large_is_refused(source: Path, destination: Path, budget: Budget) -> None:
    for name in ("a", "b", "c"):
        (source / name).write_text("12345")
    descriptor = os.open(source, os.O_RDONLY)
    try:
        with pytest.raises(BuildError, match="too large"):
            take_over(descriptor, destination, rewrite=run_by_environment, budget=budget)
    finally:
        os.close(descriptor)


@pytest.mark.parametrize(
    ("path", "target", "stays"),
    [
        ("a", "b", True), ("d/a", "../b", True), ("d/a", "../d/../b", True), ("a", ".", True),
        ("d/e/a", "../../b", True),
        ("a", "..", False), ("a", "../b", False), ("d/a", "../../b", False), ("a", "/b", False), ("a", "", False),
        ("a", "b/../../c", False), ("a", "b\0c", False), ("d/a", "x/../../../b", False),
    ],
)  # fmt: skip
def test_where_a_link_leads_is_judged_by_its_text(path: str, target: str, stays: bool) -> None:
    assert link_stays_inside(path, target) is stays


def stream(*entries: dict[str, Any] | bytes) -> io.BytesIO:
    data = bytearray()
    for entry in entries:
        text = entry if isinstance(entry, bytes) else json.dumps(entry).encode()
        data += text if isinstance(entry, bytes) else struct.pack(">I", len(text)) + text
    return io.BytesIO(data)


def file(path: object, size: object = 0, **more: object) -> dict[str, Any]:
    return {"kind": "file", "path": path, "size": size, **more}


END = {"kind": "end"}
DIRECTORY = {"kind": "directory", "path": "d"}


@pytest.mark.parametrize(
    "entries",
    [
        (), (b"\0\0",), (b"\xff\xff\xff\xff",), (struct.pack(">I", MAX_HEAD_BYTES + 1),), (b"\0\0\0\x01x",),
        (b"\0\0\0\x02[]", END), ({}, END), ({"kind": "device", "path": "a"}, END), (file("a"),),
        (file("/etc/cron.d/x"), END), (file("../x"), END), (file("d/../../x"), END), (DIRECTORY, file("d/../x"), END),
        (file(""), END), (file("."), END), (file(".."), END), (file("d//x"), END), (file("a\0b"), END),
        (file("a\nb"), END),
        (file(None), END), (file(1), END), (file("d/x"), END), (file("x" * 300), END), (file("\ud800"), END),
        (file("a", -1), END), (file("a", "1"), END), (file("a", True), END), (file("a", 1.5), END),
        (file("a", None), END),
        (file("a", 10), b"12345"), (file("a"), file("a"), END), (DIRECTORY, DIRECTORY, END),
        (DIRECTORY, file("d"), END),
        ({"kind": "link", "path": "l", "target": "/etc"}, END), ({"kind": "link", "path": "l", "target": "../x"}, END),
        ({"kind": "link", "path": "l"}, END), (DIRECTORY, {"kind": "link", "path": "d", "target": "x"}, END),
        ({"kind": "link", "path": "l", "target": "."}, file("l/x"), END),
        (DIRECTORY, {"kind": "link", "path": "l", "target": "d"}, file("l/x"), END),
    ],
)  # fmt: skip
def test_a_hostile_stream_is_refused_and_writes_nothing_outside(
    destination: Path, entries: tuple[dict[str, Any] | bytes, ...]
) -> None:
    before = sorted(destination.parent.iterdir())
    with pytest.raises(ParcelError):
        unpack(stream(*entries), destination, rewrite=run_by_environment)
    assert sorted(destination.parent.iterdir()) == before


def test_a_stream_that_promises_too_much_is_refused_before_it_is_read(destination: Path) -> None:
    with pytest.raises(BuildError, match="too large"):
        unpack(stream(file("a", 2**60)), destination, rewrite=run_by_environment)


def test_the_programs_for_sandboxes_run_on_the_oldest_syntax_and_import_nothing_of_ours(tmp_path: Path) -> None:
    """Each is parsed as CPython 3.8 would, and the package starts with `-I -S` from a copy, as in a sandbox."""
    import ast

    copy = tmp_path / "inside"
    copy.mkdir()
    for path in Path(inside.__file__).parent.glob("*.py"):
        tree = ast.parse(path.read_text(), feature_version=(3, 8))
        names = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and not node.level]
        names += [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
        assert {name.partition(".")[0] for name in names} <= set(sys.stdlib_module_names)
        (copy / path.name).write_text(path.read_text())
    start = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import inside.workbench"
    subprocess.run([sys.executable, "-I", "-S", "-c", start], check=True)
