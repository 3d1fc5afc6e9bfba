"""P8: a warm run and a page of the list with a million records, beside the same with few."""

from __future__ import annotations

import sqlite3
import statistics
import time

from bench.measure import one_client
from bench.scene import Findings, Scene

RECORDS = 1_000_000
PAGES = 20
"""How often a page is read for one figure."""
_COPY = """
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count})
INSERT INTO executions ({names})
SELECT {values} FROM n, (SELECT * FROM executions WHERE status = 'Success' AND kind = 'run' LIMIT 1) AS one
"""


def p8(scene: Scene, found: Findings) -> None:
    """The same measures before and after."""
    scene.deploy("hello")
    assert scene.platform.run("hello", {"name": "x"}).status == 200

    def run() -> float:
        return one_client(scene.target("hello"), seconds=scene.seconds).p50

    def page() -> float:
        return statistics.median(one_page() for _ in range(PAGES))

    def one_page() -> float:
        begin = time.perf_counter()
        answer = scene.platform.call("GET", "executions/?include_completed=true&limit=100")
        assert answer.status == 200, answer
        return (time.perf_counter() - begin) * 1000

    measures = {"a warm run, p50": run, "a page of 100 records": page}
    before = scene.interleaved(measures)
    fill(scene)
    after = scene.interleaved(measures)
    for name in measures:
        few = found.row("P8", f"{name}, few records", "ms", before[name])
        many = found.row("P8", f"{name}, {RECORDS:,} records", "ms", after[name])
        found.at_most("P8", f"{name}: times what it takes with few", many.median / few.median, 1.2)


def fill(scene: Scene) -> None:
    """Copies of one record, each a second older than the one before, in parts: the platform writes in between."""
    with sqlite3.connect(scene.platform.data / "db" / "faaspot.db", timeout=60) as database:
        columns = [row[1] for row in database.execute("PRAGMA table_info(executions)") if row[1] != "seq"]
        part, done = 50_000, 0
        while done < RECORDS:
            values = {"uuid": "lower(hex(randomblob(16)))", "created": f"created - (i + {done}) * 1000000"}
            chosen = ", ".join(values.get(name, f'"{name}"') for name in columns)
            names = ", ".join(f'"{name}"' for name in columns)
            database.execute(_COPY.format(count=part, names=names, values=chosen))
            database.commit()
            done += part
