"""How all tests run: the second try that CI gives them is a check that can fail, and who must be alone is."""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
from pathlib import Path

import pytest
from tests import lanes, machine

ONCE = """
from pathlib import Path
def test_it():
    mark = Path(__file__).with_suffix(".tried")
    assert mark.exists() or mark.touch()
"""

MEETS = """
def test_it():
    with open("{pipe}", "{mode}"):  # waits until somebody opens the other end
        assert {passes}
"""


@pytest.fixture
def in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")


def written(folder: Path, text: str) -> str:
    file = folder / "test_tried.py"
    file.write_text(text)
    return f"{file}::test_it"


def test_a_test_that_passes_alone_is_named(tmp_path: Path, in_ci: None, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "test_tried.tried").touch()
    test = written(tmp_path, ONCE)
    assert lanes.once_more([0, 1], [test]) == 0
    assert f"UNSTABLE: failed, then passed alone: {test}" in capfd.readouterr().out


def test_a_test_that_fails_again_fails_the_run(tmp_path: Path, in_ci: None) -> None:
    assert lanes.once_more([1, 0], [written(tmp_path, ONCE)]) == 1


@pytest.mark.parametrize("codes", [[0, 2], [1, 3], [-9, 1], [5, 0]])
def test_what_is_more_than_a_failed_test_gets_no_second_try(tmp_path: Path, in_ci: None, codes: list[int]) -> None:
    (tmp_path / "test_tried.tried").touch()
    assert lanes.once_more(codes, [written(tmp_path, ONCE)]) != 0


def test_many_failures_get_no_second_try(tmp_path: Path, in_ci: None) -> None:
    (tmp_path / "test_tried.tried").touch()
    assert lanes.once_more([1, 0], [written(tmp_path, ONCE)] * 4) == 1


def test_outside_of_ci_a_failure_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    (tmp_path / "test_tried.tried").touch()
    assert lanes.once_more([0, 1], [written(tmp_path, ONCE)]) == 1


def test_what_pytest_noted_as_failed_is_what_is_tried(tmp_path: Path) -> None:
    test = written(tmp_path, "def test_it():\n    assert False\n")
    assert lanes.main([test, "-o", f"cache_dir={tmp_path / 'cache'}"]) == 1
    assert [Path(each).name for each in lanes.failed(tmp_path / "cache")] == ["test_tried.py::test_it"]


def test_lanes_run_side_by_side_and_each_is_heard(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(pipe := tmp_path / "pipe")
    for name, mode in (("one", "r"), ("two", "w")):
        folder = tmp_path / name
        folder.mkdir()
        (folder / f"test_{name}.py").write_text(MEETS.format(pipe=pipe, mode=mode, passes=name == "one"))
    codes, tests = lanes.side_by_side([[str(tmp_path / "one")], [str(tmp_path / "two")]], tmp_path)
    assert codes == [0, 1]
    assert [Path(test).name for test in tests] == ["test_two.py::test_it"]
    heard = capfd.readouterr().out
    assert heard.index("1 passed") < heard.index("beside it") < heard.index("1 failed")


def test_no_test_is_in_two_lanes_or_in_none() -> None:
    here = Path(__file__).parents[1]
    own = [path for paths in lanes.PLATFORMS for path in paths]
    assert len(own) == len(set(own))
    assert set(own) < {f"tests/{path.name}" for path in here.iterdir() if any(path.glob("test_*.py"))}
    assert list(lanes.REST) == ["tests", *(f"--ignore={path}" for path in own)]


def test_who_must_be_alone_waits_for_all_and_goes_before_those_who_come_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # this test has a turn of its own
    order: list[str] = []

    def take(name: str, alone: bool) -> None:
        with machine.turn(alone=alone):
            order.append(name)

    def started(name: str, alone: bool) -> threading.Thread:
        thread = threading.Thread(target=take, args=(name, alone))
        thread.start()
        thread.join(0.2)
        return thread

    with contextlib.ExitStack() as inside:
        inside.enter_context(machine.turn(alone=False))
        beside = started("beside", alone=False)
        assert order == ["beside"]
        waiting = [started("alone", alone=True), started("later", alone=False)]
        assert order == ["beside"]
    for thread in (beside, *waiting):
        thread.join()
    assert order == ["beside", "alone", "later"]
