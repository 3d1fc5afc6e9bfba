"""How long the modules of an import took."""

from __future__ import annotations

import importlib
import sys
import traceback
from pathlib import Path

import pytest

from faaspot_runner.agent.imports import SLOWEST, Watch

SLEEP = "import time\ntime.sleep(%s)\n"


@pytest.fixture(autouse=True)
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "slow_inner.py").write_text(SLEEP % 0.05)
    (tmp_path / "slow_outer.py").write_text("import slow_inner\n" + SLEEP % 0.02)
    (tmp_path / "broken_outer.py").write_text("import slow_nowhere\n")
    for number in range(8):
        (tmp_path / f"slow_{number}.py").write_text(SLEEP % 0.002)
    for name in ("slow_inner", "slow_outer", *(f"slow_{number}" for number in range(8))):
        monkeypatch.delitem(sys.modules, name, raising=False)


def test_each_module_counts_without_those_that_it_imports() -> None:
    with Watch() as watch:
        importlib.import_module("slow_outer")
    found = watch.slowest()
    assert list(found)[:2] == ["slow_inner", "slow_outer"]
    assert found["slow_inner"] >= 50
    assert 20 <= found["slow_outer"] < found["slow_inner"]


def test_only_the_slowest_are_told() -> None:
    with Watch() as watch:
        for number in range(8):
            importlib.import_module(f"slow_{number}")
    assert len(watch.slowest()) == SLOWEST


def test_a_traceback_has_no_frame_of_it_and_afterwards_all_is_as_before() -> None:
    before = sys.modules["_frozen_importlib"]._find_and_load  # type: ignore[attr-defined]
    with pytest.raises(ModuleNotFoundError) as caught, Watch():
        import broken_outer  # type: ignore[import-not-found]  # noqa: F401
    text = "".join(traceback.format_exception(caught.value))
    assert "broken_outer.py" in text
    assert "importlib" not in text
    assert sys.modules["_frozen_importlib"]._find_and_load is before  # type: ignore[attr-defined]
