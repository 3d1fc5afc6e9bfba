"""RELIABILITY.md names the test behind each sentence: each is there."""

from __future__ import annotations

import re

import pytest
from tests.platforms import ROOT

TEXT = (ROOT / "RELIABILITY.md").read_text()
NAME = r"`((?:unit|contract|property|faults|e2e)/[\w/]+\.py)(?:::(\w+?))?(?:_?\.\.\.)?(?:\[\w+\])?`"
NAMED = sorted(set(re.findall(NAME, TEXT)))
POINTS = (ROOT / "runner" / "faaspot_runner" / "contract" / "failpoints.py").read_text()


@pytest.mark.parametrize(("path", "name"), NAMED, ids=lambda part: part or "all")
def test_a_named_test_is_there(path: str, name: str) -> None:
    source = (ROOT / "tests" / path).read_text()
    assert f"def {name}" in source if name else source


def test_the_tests_are_named_at_all() -> None:
    assert len(NAMED) > 30


@pytest.mark.parametrize("point", re.findall(r'^ +"(\w+)",', POINTS, re.MULTILINE))
def test_each_point_is_in_the_code_once_and_has_its_test(point: str) -> None:
    sources = [*(ROOT / "api").rglob("*.py"), *(ROOT / "runner").rglob("*.py")]
    assert sum(source.read_text().count(f'reach("{point}")') for source in sources) == 1
    assert f'"{point}"' in (ROOT / "tests" / "faults" / "test_failpoints.py").read_text()
    assert f"`{point}`" in TEXT


def test_a_fault_that_chaos_is_said_to_have_is_one_of_its_faults() -> None:
    faults = (ROOT / "tests" / "faults" / "faults.py").read_text()
    for line in TEXT.splitlines():
        if "chaos `" in line:
            for name in re.findall(r"`([a-z]+_[a-z_]+)`", line.partition("chaos")[2]):
                assert f"def {name}(" in faults, name
