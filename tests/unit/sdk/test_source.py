"""Reading what is to be sent: a path, an open file, and what is neither there nor text."""

from __future__ import annotations

import io
from pathlib import Path
from urllib.parse import unquote

import pytest

from faaspot import _source
from faaspot.errors import FaaspotError, MissingFile


def test_a_path_as_text_or_path_or_an_open_file_all_do(tmp_path: Path) -> None:
    path = tmp_path / "f.py"
    path.write_text("x = 'ü'\n", encoding="utf-8")

    assert _source.read(path) == _source.read(str(path)) == "x = 'ü'\n"
    with path.open("rb") as binary, path.open(encoding="utf-8") as text:
        assert _source.read(binary) == _source.read(text) == "x = 'ü'\n"
    assert _source.read(io.StringIO("a")) == "a"


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path: Path) -> None:
    (tmp_path / "f.py").write_bytes(b"\xef\xbb\xbfx = 1\n")

    assert _source.read(tmp_path / "f.py") == "x = 1\n"


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingFile, match=r"Missing file in path: .*nothing\.py"):
        _source.read(tmp_path / "nothing.py")


def test_a_folder_and_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "f.bin").write_bytes(b"abc\xff")

    with pytest.raises(FaaspotError, match="Cannot read"):
        _source.read(tmp_path)
    with pytest.raises(FaaspotError, match=r"not UTF-8 text \(byte 3\)"):
        _source.read(tmp_path / "f.bin")


def test_encoded_text_is_percent_encoded_and_keeps_slashes() -> None:
    text = "def main(args, context):\n    return '100%41/ü'\n"

    assert _source.encoded("a/b c%", "code") == "a/b%20c%25"
    assert unquote(_source.encoded(text, "code")) == text
