"""The root command: its help, its lazy groups, its aliases; and the help of every command as it was agreed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from fas.app import ALIASES, COMMANDS, fas
from fas.reference import commands

GOLDEN = Path(__file__).parents[2] / "golden" / "cli"
TREE = dict(commands(fas))


def test_the_help_of_each_group_is_the_line_that_the_root_shows() -> None:
    for name, text in COMMANDS.items():
        first = (TREE[f"fas {name}"].help or "").split("\n")[0]
        assert text.startswith(first.rstrip(".")), name


@pytest.mark.parametrize("path", TREE)
def test_the_help_of_every_command_is_as_it_was_agreed(path: str) -> None:
    """UPDATE_GOLDEN=1 writes the files anew."""
    result = CliRunner().invoke(fas, [*path.split()[1:], "--help"], prog_name="fas", terminal_width=100)
    golden = GOLDEN / f"{path.replace(' ', '-')}.txt"
    if os.environ.get("UPDATE_GOLDEN"):
        golden.write_text(result.stdout)

    assert result.stdout == golden.read_text()


def test_no_golden_file_is_left_of_a_command_that_is_gone() -> None:
    assert {each.stem for each in GOLDEN.glob("*.txt")} == {path.replace(" ", "-") for path in TREE}


def test_every_command_has_the_common_options_and_every_option_says_what_it_does() -> None:
    for path, command in TREE.items():
        options = [each for each in command.params if isinstance(each, click.Option)]
        assert all(each.help for each in options), path
        if not isinstance(command, click.Group):
            assert {"as_json", "verbose", "profile"} <= {each.name for each in options}, path


def test_the_later_clients_words_are_the_same_groups() -> None:
    for alias, name in ALIASES.items():
        runs = [CliRunner().invoke(fas, [word, "--help"], prog_name="fas").stdout for word in (alias, name)]
        assert runs[0].replace(f"fas {alias}", f"fas {name}") == runs[1]


def test_dashes_and_underscores_are_one() -> None:
    for words in (
        ["deployments", "run-bulk"],
        ["functions", "run_bulk"],
        ["spots", "refresh-ip"],
        ["executions", "get-bulk"],
    ):
        assert CliRunner().invoke(fas, [*words, "-h"]).exit_code == 0
    help_text = CliRunner().invoke(fas, ["executions", "list", "--include-completed", "-h"])
    assert help_text.exit_code == 0


def test_what_is_not_a_command_is_a_usage_error() -> None:
    for words in (
        ["nothing"],
        ["deployments", "nothing"],
        ["deployments", "get"],
        ["deployments", "list", "--nothing"],
    ):
        result = CliRunner().invoke(fas, words)
        assert (result.exit_code, result.stdout) == (2, "")
        assert "Usage:" in result.stderr


def test_the_version_is_that_of_the_distribution() -> None:
    from importlib.metadata import version

    assert CliRunner().invoke(fas, ["--version"]).stdout == f"fas {version('faaspot')}\n"


def test_help_imports_neither_the_library_nor_a_group() -> None:
    program = (
        "import sys; from fas.app import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "print([m for m in sys.modules if m.startswith(('faaspot', 'httpx2', 'rich', 'yaml', 'fas.commands.'))])"
    )

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert done.stdout.splitlines()[-1] == "[]"


def test_the_installed_command_and_the_module_are_the_same() -> None:
    script = Path(sys.executable).with_name("fas")
    by_module = subprocess.run([sys.executable, "-m", "fas", "-h"], capture_output=True, text=True, check=True)
    assert by_module.stdout.startswith("Usage: fas ")
    if script.exists():
        by_script = subprocess.run([str(script), "-h"], capture_output=True, text=True, check=True)
        assert by_script.stdout == by_module.stdout


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_text_that_no_terminal_can_show_is_escaped_and_does_not_fail(encoding: str) -> None:
    program = "from fas.command import forgiving; from fas import output; forgiving(); output.line('a\\ud800b')"
    environ = {**os.environ, "PYTHONIOENCODING": encoding}

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environ)

    assert done.stdout in ("a\\ud800b\n", "a?b\n")  # click has its own way with ASCII
