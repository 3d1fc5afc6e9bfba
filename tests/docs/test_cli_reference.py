"""docs/cli.md is what the commands themselves say, and docs/sdk.md's programs run."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from fas import reference

DOCS = Path(__file__).parents[2] / "docs"


def test_the_reference_of_the_command_is_current() -> None:
    """UPDATE_GOLDEN=1 writes it anew."""
    path = DOCS / "cli.md"
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(reference.text())

    assert path.read_text() == reference.text(), "run: python -m fas.reference > docs/cli.md"


def test_every_exit_code_of_the_command_stands_in_the_reference() -> None:
    from fas import command

    for code in (command.FAILED, command.USAGE, command.UNREACHED, command.STILL_GOING, command.INTERRUPTED):
        assert f"| {code} | " in reference.HEAD
        assert f"| {code} | " in (command.__doc__ or "")


@pytest.mark.parametrize("program", re.findall(r"```python\n(.*?)```", (DOCS / "sdk.md").read_text(), re.DOTALL))
def test_the_programs_of_the_sdk_guide_are_python(program: str) -> None:
    compile(program, "docs/sdk.md", "exec", flags=0x2000)  # PyCF_ALLOW_TOP_LEVEL_AWAIT
