"""Answers of the resolver that are used again: for the same question only, and not for long."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from faaspot_runner.environments import lock
from faaspot_runner.environments.process import Patience
from faaspot_runner.environments.resolutions import Resolutions
from faaspot_runner.sandbox.spec import Interpreter

PYTHON = Interpreter(executable=Path("/usr/bin/python3.11"), prefix=Path("/usr"), version="3.11", full_version="3.11.2")
OTHER = Interpreter(executable=Path("/usr/bin/python3.12"), prefix=Path("/usr"), version="3.12", full_version="3.12.1")
LOCKED = lock.Lock(packages=(lock.Package(name="alpha", version="1.0", marker=None, hashes=("0" * 64,)),))
INDEX = {"UV_DEFAULT_INDEX": "http://index.example/simple"}


def patience(seconds: float = 10.0) -> Patience:
    return Patience(deadline=time.monotonic() + seconds)


@pytest.fixture
def resolutions(tmp_path: Path) -> Resolutions:
    made = Resolutions(directory=tmp_path / "resolutions", seconds=600.0)
    made.prepare()
    return made


def known(
    resolutions: Resolutions, requirements: list[str], python: Interpreter = PYTHON, environ: dict[str, str] = INDEX
) -> bool:
    with resolutions.question(requirements, python, environ, patience()) as question:
        return question.answer() is not None


def keep(resolutions: Resolutions, requirements: list[str]) -> None:
    with resolutions.question(requirements, PYTHON, INDEX, patience()) as question:
        assert question.answer() is None
        question.keep(LOCKED)


def test_the_same_question_has_the_same_answer(resolutions: Resolutions) -> None:
    keep(resolutions, ["alpha", "beta>1"])
    with resolutions.question(["beta>1", " alpha"], PYTHON, INDEX, patience()) as question:
        answer = question.answer()
    assert answer is not None
    assert answer[0] == LOCKED
    assert answer[1] < 60


def test_another_question_has_none(resolutions: Resolutions, tmp_path: Path) -> None:
    keep(resolutions, ["alpha"])
    assert not known(resolutions, ["alpha", "beta"])
    assert not known(resolutions, ["alpha"], OTHER)
    assert not known(resolutions, ["alpha"], environ={"UV_DEFAULT_INDEX": "http://other.example/simple"})
    config = tmp_path / "uv.toml"
    environ = {**INDEX, "UV_CONFIG_FILE": str(config)}
    config.write_text("one")
    with resolutions.question(["alpha"], PYTHON, environ, patience()) as question:
        question.keep(LOCKED)
    assert known(resolutions, ["alpha"], environ=environ)
    config.write_text("other")
    assert not known(resolutions, ["alpha"], environ=environ)


def test_an_old_answer_is_none_and_goes(resolutions: Resolutions) -> None:
    keep(resolutions, ["alpha"])
    for path in resolutions.directory.iterdir():
        os.utime(path, (time.time() - 601, time.time() - 601))
    assert not known(resolutions, ["alpha"])
    for path in resolutions.directory.iterdir():
        os.utime(path, (time.time() - 601, time.time() - 601))
    resolutions.prepare()
    assert list(resolutions.directory.iterdir()) == []


def test_what_is_no_lock_is_no_answer(resolutions: Resolutions) -> None:
    keep(resolutions, ["alpha"])
    for path in resolutions.directory.iterdir():
        path.write_bytes(b"\xff evil")
    assert not known(resolutions, ["alpha"])


def test_with_no_seconds_nothing_is_kept(tmp_path: Path) -> None:
    never = Resolutions(directory=tmp_path / "resolutions", seconds=0.0)
    never.prepare()
    keep(never, ["alpha"])
    keep(never, ["alpha"])
    assert list(never.directory.iterdir()) == []


def test_who_asks_the_same_meanwhile_waits_for_the_answer(resolutions: Resolutions) -> None:
    found: list[bool] = []
    with resolutions.question(["alpha"], PYTHON, INDEX, patience()) as question:
        other = threading.Thread(target=lambda: found.append(known(resolutions, ["alpha"])))
        other.start()
        question.keep(LOCKED)
    other.join(10)
    assert found == [True]
