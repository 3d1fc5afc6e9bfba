"""Names and ids."""

from __future__ import annotations

from uuid import UUID

import pytest

from faaspot_api.domain import names


@pytest.mark.parametrize("name", ["a", "hello", "Hello-2", "a.b_c", "7", "a" * 63])
def test_plain_names_are_taken(name: str) -> None:
    assert names.name_error(name) is None


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "../x",
        "a/b",
        "-rf",
        "_a",
        "a b",
        "a\n",
        "a\0",
        "h\u0435llo",
        "\u202ea",
        "a" * 64,
        "a" * 10_000,
        "a'b",
    ],
)
def test_a_name_that_a_path_a_url_or_a_shell_reads_otherwise_is_refused(name: str) -> None:
    error = names.name_error(name)
    assert error is not None
    assert error.field == "name"
    assert len(error.message) < 200


def test_ids_of_executions_are_uuids_of_36_characters_that_sort_by_time() -> None:
    ids = [names.new_execution_id() for _ in range(1000)]
    assert len(set(ids)) == 1000
    assert all(names.is_execution_id(one) and UUID(one).version == 7 for one in ids)
    assert [one[:13] for one in ids] == sorted(one[:13] for one in ids)


@pytest.mark.parametrize("text", ["", "x", "' OR 1=1 --", "0" * 36, names.new_execution_id().upper() + "\n"])
def test_what_has_not_the_form_of_an_id_is_none(text: str) -> None:
    assert not names.is_execution_id(text)
