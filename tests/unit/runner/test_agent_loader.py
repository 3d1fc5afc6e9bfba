"""How the user's module is imported and its failures are told. In a process of its own: a module is imported once."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

from faaspot_runner.agent import loader

PROGRAM = """
import json, sys
sys.path.insert(0, sys.argv[1])
from agent import loader
try:
    main = loader.load(sys.argv[2])
except loader.LoadError as error:
    print(json.dumps({"load": error.error}))
else:
    try:
        print(json.dumps({"value": loader.run(main, {}, {})}))
    except BaseException as error:
        print(json.dumps({"run": loader.describe(error)}))
"""


def load_and_run(tmp_path: Path, code: str) -> Any:
    (tmp_path / "main.py").write_text(textwrap.dedent(code))
    agent = Path(loader.__file__).parent.parent
    argv = [sys.executable, "-I", "-c", PROGRAM, str(agent), str(tmp_path)]
    return json.loads(subprocess.run(argv, capture_output=True, text=True, check=True).stdout)


def test_the_module_is_called_main_and_can_import_itself(tmp_path: Path) -> None:
    code = """
    import pickle, sys
    class Thing: pass
    def main(args, context):
        import main as me
        return [__name__, me.main is main, type(pickle.loads(pickle.dumps(Thing()))).__name__, sys.argv == [__file__]]
    """
    assert load_and_run(tmp_path, code) == {"value": ["main", True, "Thing", True]}


def test_a_coroutine_is_awaited(tmp_path: Path) -> None:
    assert load_and_run(tmp_path, "async def main(a, c):\n    return 7\n") == {"value": 7}


def test_what_is_no_function_is_said(tmp_path: Path) -> None:
    assert load_and_run(tmp_path, "x = 1\n")["load"]["message"] == "the code has no function main(args, context)"


def test_a_syntax_error_shows_its_line(tmp_path: Path) -> None:
    error = load_and_run(tmp_path, "\n\ndef main(:\n")["load"]
    assert error["type"] == "SyntaxError"
    assert error["traceback"].startswith(f'  File "{tmp_path}/main.py", line 3')


def test_a_wrong_number_of_arguments_has_no_line_of_ours(tmp_path: Path) -> None:
    error = load_and_run(tmp_path, "def main(args): pass\n")["run"]
    assert error["message"] == "main() takes 1 positional argument but 2 were given"
    assert "loader" not in error["traceback"]


def test_causes_are_kept_and_exit_is_named(tmp_path: Path) -> None:
    code = """
    def main(a, c):
        try:
            1 / 0
        except ZeroDivisionError as error:
            raise ValueError from error
    """
    error = load_and_run(tmp_path, code)["run"]
    assert "ZeroDivisionError" in error["traceback"]
    assert "direct cause" in error["traceback"]
    assert load_and_run(tmp_path, "import sys\ndef main(a, c): sys.exit('bye')\n")["run"]["message"] == (
        "main called sys.exit('bye')"
    )


def test_an_error_whose_text_fails_is_still_told(tmp_path: Path) -> None:
    code = """
    class Odd(Exception):
        def __str__(self): raise RuntimeError
    def main(a, c):
        raise Odd
    """
    error = load_and_run(tmp_path, code)["run"]
    assert error["type"] == "Odd"
    assert error["message"] == "(its text cannot be made)"


def test_what_is_told_is_bounded_and_plain(tmp_path: Path) -> None:
    error = load_and_run(tmp_path, "def main(a, c):\n    raise ValueError('\\ud800' + 'x' * 10**6)\n")["run"]
    assert error["message"].startswith("\\ud800xxx")
    assert len(error["message"]) == loader.MESSAGE_CHARS
    assert len(error["traceback"]) < loader.TRACEBACK_CHARS + 100
