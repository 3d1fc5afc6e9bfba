"""The rules of ARCHITECTURE.md that no import contract sees."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.platforms import ROOT

MAP = (ROOT / "ARCHITECTURE.md").read_text()
PACKAGES = {
    "faaspot_api": ROOT / "api" / "faaspot_api",
    "faaspot_runner": ROOT / "runner" / "faaspot_runner",
    "faaspot": ROOT / "sdk" / "faaspot",
    "fas": ROOT / "cli" / "fas",
}
MOST_LINES = 450
NAMELESS = {"utils", "util", "helpers", "helper", "common", "misc", "shared", "tools", "core", "base_utils"}
ENVIRONMENT = {
    "api/faaspot_api/settings.py",
    "api/faaspot_api/metrics.py",  # tells the metrics library where its directory is
    "api/faaspot_api/queue/embedded.py",  # hands what it got on to the server that it starts
    "runner/faaspot_runner/settings.py",
    "runner/faaspot_runner/sandbox/features.py",  # so do the probes
    "runner/faaspot_runner/agent/child.py",
    "sdk/faaspot/config.py",
    "cli/fas/output.py",
    "cli/fas/commands/up.py",
    "cli/fas/commands/backup.py",
}
"""Who may read the process' environment. Everything else is told."""


def modules() -> Iterator[Path]:
    for package in PACKAGES.values():
        yield from sorted(package.rglob("*.py"))


@pytest.mark.parametrize("package", ["faaspot_api", "faaspot_runner"])
def test_every_module_at_the_top_of_a_package_is_on_the_map(package: str) -> None:
    names = {path.name if path.is_dir() else path.stem for path in PACKAGES[package].iterdir()}
    words = set(re.findall(r"\w+", MAP))
    assert {name for name in names if not name.startswith("_")} - words == set()


def test_what_the_map_names_as_a_file_is_there() -> None:
    files = {path.name for path in modules()} | {path.name for path in ROOT.glob("*")}
    named = set(re.findall(r"`(?:[\w/]+/)?(\w+\.py)`", MAP))
    assert named - files == set()


def test_no_file_has_grown_past_reading() -> None:
    long = {
        str(path.relative_to(ROOT)): lines for path in modules() if (lines := path.read_text().count("\n")) > MOST_LINES
    }
    assert long == {}


def test_no_file_has_a_name_that_says_nothing() -> None:
    assert {path.stem for path in modules()} & NAMELESS == set()


def test_only_the_settings_read_the_environment() -> None:
    readers = {str(path.relative_to(ROOT)) for path in modules() if _reads_environment(ast.parse(path.read_text()))}
    assert readers - ENVIRONMENT == set()
    assert ENVIRONMENT - readers == set(), "no longer reads it: take it from the list"


def _reads_environment(tree: ast.Module) -> bool:
    return any(
        isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv") and getattr(node.value, "id", "") == "os"
        for node in ast.walk(tree)
    )
