"""`fas completion`, and what a shell gets from it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from fas.command import USAGE
from tests.unit.cli.conftest import Fas


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_of_each_shell_asks_fas(bare: Fas, shell: str) -> None:
    assert "_FAS_COMPLETE" in bare("completion", shell).stdout
    assert bare.json("completion", shell)["shell"] == shell


def test_another_shell_is_refused(bare: Fas) -> None:
    bare("completion", "tcsh", code=USAGE)


def test_commands_and_options_are_completed() -> None:
    def completed(words: str) -> list[str]:
        environ = {**os.environ, "_FAS_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": "2"}
        done = subprocess.run([sys.executable, "-m", "fas"], capture_output=True, text=True, check=True, env=environ)
        return [line.split(",")[1] for line in done.stdout.splitlines()]

    assert {"run", "run-bulk", "rollback"} <= set(completed("fas deployments r"))
    assert completed("fas executions can") == ["cancel"]
