"""Parameters of runs: every documented form, and what is none."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

from fas import parameters


@pytest.mark.parametrize(
    ("texts", "found"),
    [
        (["a=1, b=2"], {"a": "1", "b": "2"}),
        (["a=1,b=2"], {"a": "1", "b": "2"}),
        (["a=1", "b=2"], {"a": "1", "b": "2"}),
        (["b=x=y"], {"b": "x=y"}),
        (["greeting=Hello, world"], {"greeting": "Hello, world"}),
        (["greeting=Hello, world, name=you"], {"greeting": "Hello, world", "name": "you"}),
        (["token=YWJj=="], {"token": "YWJj=="}),
        (["a="], {"a": ""}),
        (["a= x "], {"a": " x "}),
        (["a =1"], {"a": "1"}),
        (["ü=ß, größe=1"], {"ü": "ß", "größe": "1"}),
        (["a=1", "a=2"], {"a": "2"}),
        (["n=1,2,3"], {"n": "1,2,3"}),
        (["host=bücher.example"], {"host": "bücher.example"}),
        ([], {}),
    ],
)
def test_parameters(texts: list[str], found: dict[str, str]) -> None:
    assert parameters.parsed(texts) == found


@pytest.mark.parametrize("text", ["", "a", "=1", " =1"])
def test_what_is_no_parameter_is_named(text: str) -> None:
    with pytest.raises(click.BadParameter, match="is not key=value"):
        parameters.parsed([text])


def test_the_name_is_the_one_word_that_is_no_parameter() -> None:
    assert parameters.named(["hello", "b=2"]) == ("hello", ["b=2"])
    assert parameters.named(["b=2", "hello"]) == ("hello", ["b=2"])
    with pytest.raises(click.UsageError, match="in quotes"):
        parameters.named(["hello", "world"])
    with pytest.raises(click.UsageError, match="Missing argument"):
        parameters.named(["b=2"])


def test_args_come_as_json_from_a_file_or_from_stdin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import io

    (tmp_path / "args.json").write_text('{"a": [1, "ü"]}', encoding="utf-8")
    monkeypatch.setattr("sys.stdin", io.StringIO('{"b": null}'))

    assert parameters.typed('{"a": 1.5}') == {"a": 1.5}
    assert parameters.typed(f"@{tmp_path / 'args.json'}") == {"a": [1, "ü"]}
    assert parameters.typed("-") == {"b": None}
    assert parameters.typed(None) is None


@pytest.mark.parametrize("text", ["{", "NaN", '{"a": Infinity}', "a=1", "@nothing.json"])
def test_args_that_are_not_strict_json_are_refused(text: str) -> None:
    with pytest.raises(click.BadParameter):
        parameters.typed(text)


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"\xff")

    with pytest.raises(click.BadParameter, match="not UTF-8"):
        parameters.typed(f"@{tmp_path / 'x'}")


def test_one_run_takes_an_object_and_parameters_win() -> None:
    assert parameters.one('{"a": 1, "b": 2}', ["a=x"]) == {"a": "x", "b": 2}
    assert parameters.one(None, []) == {}
    with pytest.raises(click.BadParameter, match="run-bulk"):
        parameters.one("[{}]", [])
    with pytest.raises(click.BadParameter, match="object"):
        parameters.one("3", [])


def test_many_runs_take_a_list_and_one_for_each_parameter() -> None:
    assert parameters.many('[{"a": 1}]', ["a=1, b=2", "c=3"]) == [{"a": 1}, {"a": "1", "b": "2"}, {"c": "3"}]
    assert parameters.many(None, []) == []
    for wrong in ("{}", "[1]"):
        with pytest.raises(click.BadParameter, match="list of objects"):
            parameters.many(wrong, [])


def test_a_large_file_is_sent_as_it_stands_and_a_small_one_is_read(tmp_path: Path) -> None:
    file = tmp_path / "args.json"
    file.write_bytes(b'{"a": 1}' + b" " * parameters.LARGE_BYTES)
    assert parameters.one(f"@{file}", []) == file
    assert parameters.one(f"@{file}", ["b=2"]) == {"a": 1, "b": "2"}
    file.write_bytes(b'{"a": 1}')
    assert parameters.one(f"@{file}", []) == {"a": 1}
