"""The table of hostile cases in SECURITY.md has all of them, and none that does not hold."""

from __future__ import annotations

import ast
from pathlib import Path

from tests.hostile import outcomes

HOSTILE = Path(outcomes.__file__).parent
WRITE = "run as root, with an engine (.ci/docker): UPDATE_GOLDEN=1 pytest tests/hostile"


def cases() -> set[str]:
    """The words of each hostile test's name."""
    found = set()
    for path in HOSTILE.glob("test_*.py"):
        tests = [each for each in ast.parse(path.read_text()).body if isinstance(each, ast.FunctionDef)]
        for each in tests:
            case = outcomes.case_of(f"tests/hostile/{path.name}::{each.name}[root]")
            if case is not None and "arena" in [argument.arg for argument in each.args.args]:
                found.add(case[0][1])
    return found


def test_every_hostile_case_stands_in_the_table_and_holds_in_every_set_up() -> None:
    text = outcomes.FILE.read_text()
    table = text[text.index(outcomes.BEGIN) + len(outcomes.BEGIN) : text.index(outcomes.END)]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]
    assert {row[1] for row in rows} == cases(), WRITE
    assert [row for row in rows if not all(cell.startswith("holds") for cell in row[2:])] == []
