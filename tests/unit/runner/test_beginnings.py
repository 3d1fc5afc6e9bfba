"""What is read off the first lines of a function's code."""

from __future__ import annotations

import time

import pytest

from faaspot_runner.connectors.beginnings import MOST_BYTES, leading_modules

MAIN = "\ndef main(args, context):\n    return 1\n"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("import numpy\n", ("numpy",)),
        ("import numpy as np, pandas as pd  # both\n", ("numpy", "pandas")),
        ("import numpy, pandas\n", ("numpy", "pandas")),
        ("from sklearn.ensemble import RandomForestClassifier\n", ("sklearn.ensemble",)),
        ("from pandas import (\n    DataFrame,  # one\n    Series as S,\n)\nimport scipy\n", ("pandas", "scipy")),
        ("from pandas import (DataFrame, Series)\n", ("pandas",)),
        ("#!/usr/bin/env python\n\n# words\nimport numpy\n", ("numpy",)),
        ('"""Words.\n\nimport os; more.\n"""\n\nimport numpy\n', ("numpy",)),
        ("'''Words.'''\nimport numpy\n", ("numpy",)),
        ('"words"\nimport numpy\n', ("numpy",)),
        ("from __future__ import annotations\nimport os\nimport numpy\n", ("numpy",)),
        ("import numpy\r\nimport pandas\r\n", ("numpy", "pandas")),
        ("import json, os\n", ()),
    ],
)
def test_modules_imported_first_of_all_are_found_in_their_order(text: str, found: tuple[str, ...]) -> None:
    assert leading_modules((text + MAIN).encode()) == found


@pytest.mark.parametrize(
    "text",
    [
        'import os\nos.environ["OMP_NUM_THREADS"] = "1"\nimport numpy\n',
        "from gevent import monkey; monkey.patch_all()\nimport requests\n",
        "x = 1\nimport numpy\n",
        "try:\n    import numpy\nexcept ImportError:\n    pass\n",
        "if True:\n    import numpy\n",
        "import os; import numpy\n",
        "from . import numpy\n",
        "import \\\n    numpy\n",
        'f"{1}"\nimport numpy\n',
        '"""a""" + "b"\nimport numpy\n',
        "  import numpy\n",
        "from x import (a,\n    b = 1,\n)\n",
    ],
)
def test_what_comes_after_any_other_statement_is_not_at_the_beginning(text: str) -> None:
    assert not {"numpy", "requests", "x"} & set(leading_modules((text + MAIN).encode()))


def test_a_beginning_ends_where_its_bytes_are_no_text() -> None:
    assert leading_modules(b"import numpy\n\xff\xfe\n") == ()


@pytest.mark.parametrize(
    "piece", ["import a," + " " * 40_000, "(" * 40_000, '"""' + '"' * 40_000, "from a import ( " * 9_000]
)
def test_hostile_text_takes_no_time(piece: str) -> None:
    began = time.monotonic()
    leading_modules(piece.encode() + b"\n")
    leading_modules(b"from a import (\n" + piece.encode() + b"\n")
    assert time.monotonic() - began < 1.0


def test_only_the_first_bytes_are_looked_at() -> None:
    assert leading_modules(b"#" * MOST_BYTES + b"\nimport numpy\n") == ()
