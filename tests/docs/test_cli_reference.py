"""docs/ says what the code does: the generated pages are current, the programs run, the numbers are the code's."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from faaspot import Faaspot
from faaspot_runner.contract import MAX_ARGS_BYTES, MAX_LOG_BYTES, MAX_RESULT_BYTES, Limits
from faaspot_runner.contract.large import MAX_LARGE_BYTES
from faaspot_runner.sandbox.spec import run_environ
from fas import reference

DOCS = Path(__file__).parents[2] / "docs"


def test_the_reference_of_the_command_is_current() -> None:
    """UPDATE_GOLDEN=1 writes it anew."""
    path = DOCS / "cli.md"
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(reference.text())

    assert path.read_text() == reference.text(), "run: python -m fas.reference > docs/cli.md"


def test_the_reference_of_the_servers_settings_is_current() -> None:
    """UPDATE_GOLDEN=1 writes it anew."""
    done = subprocess.run([sys.executable, str(DOCS / "make_server.py")], capture_output=True, text=True, check=True)
    path = DOCS / "server.md"
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(done.stdout)

    assert path.read_text() == done.stdout, "run: python docs/make_server.py > docs/server.md"


def test_every_method_of_the_library_stands_in_its_guide() -> None:
    """A public method of the client's resources without a word in docs/sdk.md is as good as missing."""
    guide = (DOCS / "sdk.md").read_text()
    client = Faaspot()
    for group in ("deployments", "executions", "spots", "runtimes", "tokens", "profiles"):
        resource = getattr(client, group)
        for name in (each for each in dir(resource) if not each.startswith("_")):
            assert re.search(rf"\b{name}\b", guide), f"{group}.{name}"


def test_what_the_guide_says_of_the_function_is_what_a_run_gets() -> None:
    guide = (DOCS / "functions.md").read_text()
    variables = re.search(r"\| environment variables \| (.*?), and nothing else", guide)
    assert variables is not None
    assert {each.partition("=")[0] for each in re.findall(r"`(.*?)`", variables[1])} == set(run_environ("id", 1))
    limits = Limits()
    for row in (
        f"| time | {limits.timeout:g} s |",
        f"| memory | {limits.memory} MB |",
        f"| processes and threads | {limits.pids} |",
        f"| `/tmp`, and again `/dev/shm` | {limits.tmp} MB ",
        f"at most {MAX_LARGE_BYTES >> 30} GB; up to {MAX_RESULT_BYTES >> 20} MB stand in the record",
        f"| args, as JSON | the run's memory, at most {MAX_LARGE_BYTES >> 30} GB; "
        f"up to {MAX_ARGS_BYTES >> 20} MB stand in the record |",
        f"| log | {MAX_LOG_BYTES >> 20} MB is kept",
    ):
        assert row in guide


def test_every_page_is_linked_from_the_readme() -> None:
    readme = (DOCS.parent / "README.md").read_text()
    for page in DOCS.glob("*.md"):
        assert f"(docs/{page.name})" in readme, page.name


def test_every_exit_code_of_the_command_stands_in_the_reference() -> None:
    from fas import command

    for code in (command.FAILED, command.USAGE, command.UNREACHED, command.STILL_GOING, command.INTERRUPTED):
        assert f"| {code} | " in reference.HEAD
        assert f"| {code} | " in (command.__doc__ or "")


PROGRAMS = [
    program
    for page in ("sdk.md", "functions.md")
    for program in re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)
]


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_programs_of_the_guides_are_python(program: str) -> None:
    compile(program, "docs", "exec", flags=0x2000)  # PyCF_ALLOW_TOP_LEVEL_AWAIT
