"""Upgrades in place: what an older release wrote into its tables is all there in this one's."""

from __future__ import annotations

import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import MetaData, select

from faaspot_api.store.engine import Store
from faaspot_api.store.migrate import HEAD, migrate, revision
from tests.platforms import ROOT

RECORDED = sorted((ROOT / "tests" / "recorded").glob("r*.tar.gz"))


def rows(url: str) -> tuple[str | None, dict[str, list[dict[str, Any]]]]:
    """The revision, and every row of every table as it stands in the file."""
    store = Store(url)
    try:
        with store.read() as transaction:
            found = MetaData()
            found.reflect(transaction)
            tables = {
                table.name: [dict(row._mapping) for row in transaction.execute(select(table))]
                for table in found.sorted_tables
                if table.name != "alembic_version"
            }
            return revision(transaction), tables
    finally:
        store.close()


@pytest.mark.parametrize("recorded", RECORDED, ids=lambda path: path.name.removesuffix(".tar.gz"))
def test_every_row_and_value_of_an_older_release_is_there_after_it(recorded: Path, tmp_path: Path) -> None:
    with tarfile.open(recorded) as tar:
        member = tar.extractfile("data/db/faaspot.db")
        assert member is not None
        with (tmp_path / "faaspot.db").open("wb") as file:
            shutil.copyfileobj(member, file)
    url = f"sqlite:///{tmp_path / 'faaspot.db'}"
    then, before = rows(url)
    assert then == recorded.name.removesuffix(".tar.gz") != HEAD
    assert migrate(url)
    now, after = rows(url)
    assert now == HEAD
    assert sum(map(len, before.values())) > 20
    for name, old in before.items():
        assert len(after[name]) == len(old), name
        for was, is_ in zip(old, after[name], strict=True):
            assert {key: is_[key] for key in was} == was
