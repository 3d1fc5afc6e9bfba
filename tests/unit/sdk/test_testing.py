"""A function called as the platform would call it."""

from __future__ import annotations

from pathlib import Path

import pytest

from faaspot import testing
from faaspot.errors import Invalid, MissingFile, Unserialisable
from tests.unit.sdk.served import write


def run(folder: Path, body: str, args: dict[str, object] | None = None) -> object:
    return testing.run(write(folder, "f.py", body), args, {"KEY": "k"})


def test_main_gets_arguments_and_context_and_gives_its_result(tmp_path: Path) -> None:
    body = "def main(args, context):\n    return [args['a'], context['KEY'], __name__]\n"

    assert run(tmp_path, body, {"a": 1}) == [1, "k", testing.MODULE]


def test_values_take_the_way_through_json(tmp_path: Path) -> None:
    body = "def main(args, context):\n    return (1, (2,)), type(args['a']).__name__\n"

    assert run(tmp_path, body, {"a": (1,)}) == [[1, [2]], "list"]


def test_an_async_main_is_awaited(tmp_path: Path) -> None:
    body = "import asyncio\nasync def main(args, context):\n    await asyncio.sleep(0)\n    return 'done'\n"

    assert run(tmp_path, body) == "done"


def test_each_call_begins_anew(tmp_path: Path) -> None:
    body = "seen = []\ndef main(args, context):\n    seen.append(1)\n    return len(seen)\n"

    assert (run(tmp_path, body), run(tmp_path, body)) == (1, 1)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("{1}", "result is of type set"),
        ("[1, {'a': object()}]", r"result\[1\]\['a'\] is of type object"),
        ("float('nan')", "result is nan"),
        ("{1: 2}", "key of type int"),
        ("loop", "contains itself"),
        ("b''", "type bytes"),
    ],
)
def test_a_result_that_json_cannot_hold_is_named_with_its_place(tmp_path: Path, value: str, said: str) -> None:
    with pytest.raises(Unserialisable, match=said):
        run(tmp_path, f"loop = []\nloop.append(loop)\ndef main(args, context):\n    return {value}\n")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("x = 1\n", "has no main"),
        ("def main(args):\n    pass\n", "two positional"),
        ("class main:\n    pass\n", "must be a function"),
        ("main = 3\n", "must be a function"),
        ("def main(args, context):\n    yield 1\n", "generator"),
        ("async def main(args, context):\n    yield 1\n", "generator"),
    ],
)
def test_what_the_platform_would_refuse_is_refused(tmp_path: Path, body: str, said: str) -> None:
    with pytest.raises(Invalid, match=said):
        run(tmp_path, body)


def test_any_main_that_takes_two_arguments_will_do(tmp_path: Path) -> None:
    for head in ("def main(*args)", "def main(a, b=1, *, c=2)", "main = lambda a, b"):
        text = f"{head}: return 1" if "lambda" not in head else f"{head}: 1"
        assert run(tmp_path, text + "\n") == 1


def test_the_functions_own_exception_comes_out_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        run(tmp_path, "def main(args, context):\n    return args['missing']\n")
    with pytest.raises(MissingFile):
        testing.run(tmp_path / "none.py")
    with pytest.raises(SyntaxError):
        run(tmp_path, "def main(:\n")
