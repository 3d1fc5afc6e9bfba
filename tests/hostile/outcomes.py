"""The table of SECURITY.md: what each hostile case came to in each set-up, from the results of the tests themselves.

`UPDATE_GOLDEN=1` at a run of the whole suite writes it.
"""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

import pytest

FILE = Path(__file__).resolve().parents[2] / "SECURITY.md"
BEGIN, END = "<!-- hostile cases: written by tests/hostile/outcomes.py -->\n", "<!-- end of hostile cases -->\n"
SETUPS = ("root", "user", "docker")
GROUPS = "ERB"
"""Escape, resources, requests."""
_NODE = re.compile(
    r"tests/hostile/\w+\.py::test_(?P<rows>(?:[erb]\d+_)*)(?P<words>\w+)\[(?P<setup>\w+)-?(?P<rest>.*)\]"
)
_ROW = re.compile(r"\b[ERB]\d+\b")

Case = tuple[str, str]
"""Rows of the list of hostile functions, and the words of the test's name."""


def case_of(nodeid: str) -> tuple[Case, str] | None:
    """The case and the set-up of a test; None for one that has no set-up."""
    found = _NODE.match(nodeid)
    if found is None:
        return None
    rows = found["rows"].upper().split("_")[:-1] or _ROW.findall(found["rest"])
    return (", ".join(rows), found["words"].replace("_", " ")), found["setup"]


class Outcomes:
    """A pytest plugin that keeps them; a case holds where every one of its tests passed."""

    def __init__(self) -> None:
        self._seen: dict[Case, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when != "call" and report.passed:
            return
        found = case_of(report.nodeid)
        if found is not None:
            self._seen[found[0]][found[1]].append(report.outcome)

    def table(self) -> str:
        lines = ["| case | what is tried | root | user | docker |\n", "|---|---|---|---|---|\n"]
        for case in sorted(self._seen, key=_order):
            cells = [_cell(self._seen[case].get(setup, [])) for setup in SETUPS]
            lines.append(f"| {' | '.join((*case, *cells))} |\n")
        return "".join(lines)

    def write(self) -> None:
        """Do nothing where a set-up was left out: half a table says the wrong thing."""
        if {setup for cells in self._seen.values() for setup in cells} != set(SETUPS):
            return
        text = FILE.read_text()
        start, end = text.index(BEGIN) + len(BEGIN), text.index(END)
        FILE.write_text(text[:start] + self.table() + text[end:])


def _cell(outcomes: list[str]) -> str:
    """With the number of its tests, where there are several."""
    failed = sum(outcome != "passed" for outcome in outcomes)
    if not outcomes or failed:
        return f"{failed} of {len(outcomes)} failed" if failed else "not tried"
    return f"holds ({len(outcomes)})" if len(outcomes) > 1 else "holds"


def _order(case: Case) -> tuple[int, int, str]:
    """As the list has them, those without a row last."""
    first = case[0].split(", ")[0]
    return (GROUPS.index(first[0]), int(first[1:]), case[1]) if first else (len(GROUPS), 0, case[1])
