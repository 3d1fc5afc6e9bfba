"""What is printed, and where."""

from __future__ import annotations

import io

import pytest

from fas import output


def test_a_text_is_bare_and_anything_else_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    for value in ("a b", {"a": "ü"}, [1, None], None, 3.5):
        output.value(value)
    output.value("a b", as_json=True)

    assert capsys.readouterr().out.splitlines() == ["a b", '{"a": "ü"}', "[1, null]", "null", "3.5", '"a b"']


def test_pairs_put_long_texts_last_and_the_code_after_them(capsys: pytest.CaptureFixture[str]) -> None:
    output.pairs({"code": "x = 1", "text": "a\nb\n", "name": "n", "n": None, "d": {"a": 1}}, last=("code",))

    assert capsys.readouterr().out == 'name | n\nn    |\nd    | {"a": 1}\ntext |\na\nb\ncode | x = 1\n'


def test_tables_are_aligned_and_hold_lists_and_long_texts_on_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    output.table(("name", "spots"), [("a", ["1", "2"]), ("long name", "x\ny")])

    assert capsys.readouterr().out == "NAME       SPOTS\na          1, 2\nlong name  x y\n"


def test_a_long_value_is_shortened_with_a_mark() -> None:
    assert output.shortened("a" * 60) == "a" * 60
    assert output.shortened({"a": "b" * 100}).endswith("…")
    assert len(output.shortened("a" * 100)) == output.SHORT


def test_control_characters_are_shown_and_not_obeyed() -> None:
    assert output.printable("a\x1b[31mb\x00\tc\nü\r") == "a\\x1b[31mb\\x00\tc\nü"


def test_an_error_says_what_to_do_next_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    output.failure("it broke", ["  a: wrong"], "Mend it.")

    said = capsys.readouterr()
    assert (said.out, said.err) == ("", "Error: it broke\n  a: wrong\nMend it.\n")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_colour_is_only_for_a_terminal_that_wants_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    assert output.colourful(Terminal())
    assert not output.colourful(io.StringIO())
    monkeypatch.setenv("NO_COLOR", "1")
    assert not output.colourful(Terminal())
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "dumb")
    assert not output.colourful(Terminal())


def test_a_terminal_gets_bold_headings_and_a_red_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    out, err = Terminal(), Terminal()
    monkeypatch.setattr("sys.stdout", out)
    monkeypatch.setattr("sys.stderr", err)

    output.table(("a",), [("b",)])
    output.failure("no")

    assert out.getvalue() == "\x1b[1mA\x1b[0m\nb\n"
    assert err.getvalue().startswith("\x1b[31m\x1b[1mError:\x1b[0m")
