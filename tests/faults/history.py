"""What a chaos run observed, and what must hold of it: client-side acknowledgements against the final records.

Everything is written down while it happens by those who saw it (callers, the receiver of callbacks, a watcher of the
host's processes), and judged afterwards against the database and the machine.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import threading
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.faults.worlds import ATTEMPTS
from tests.platforms import Platform, eventually
from tests.receivers import Receiver

TERMINAL = ("Success", "Failure", "Cancelled")
PLATFORM_REASONS = ("worker_lost", "interrupted")


@dataclass
class Acknowledged:
    """One run as its caller knows it. `told`: what a sync caller was answered as the result, None if nothing was."""

    uuid: str
    n: int
    callback: bool = False
    told: Any = None


@dataclass
class History:
    """Filled by many threads."""

    runs: dict[str, Acknowledged] = field(default_factory=dict)
    cancelled: set[str] = field(default_factory=set)
    faults: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    samples: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def acknowledged(self, key: str, run: Acknowledged) -> None:
        """An answer with an execution id. The same key must never have two."""
        with self._lock:
            known = self.runs.setdefault(key, run)
            if known.uuid != run.uuid:
                self.problems.append(f"the key {key} was answered {known.uuid} and {run.uuid}")
            known.told = run.told if run.told is not None else known.told

    def refuse(self, what: str) -> None:
        with self._lock:
            self.refused[what] += 1

    def fault(self, what: str) -> None:
        with self._lock:
            self.faults[what] += 1

    def problem(self, text: str) -> None:
        with self._lock:
            self.problems.append(text)


@dataclass
class Verdict:
    """The summary of a chaos run; `problems` must be empty."""

    seconds: float
    seed: int
    faults: dict[str, int]
    accepted: int
    ended: dict[str, int]
    starts: int
    retried: int
    refused: dict[str, int]
    callbacks: int
    samples: int
    lost: int
    double_ends: int
    overlaps: int
    leaks: int
    problems: list[str]

    def text(self) -> str:
        return json.dumps(asdict(self), indent=2)


def settled(platform: Platform, history: History, receiver: Receiver, seconds: float) -> None:
    """Wait until every acknowledged run has ended and every callback was heard; what has not by then is a problem."""
    waited = {run.uuid for run in history.runs.values()}
    told = {run.uuid for run in history.runs.values() if run.callback}

    def quiet() -> bool:
        waited.difference_update(uuid for uuid in tuple(waited) if _status(platform, uuid) in TERMINAL)
        told.difference_update(uuid for uuid in tuple(told) if receiver.of(uuid))
        return not waited and not told

    with contextlib.suppress(AssertionError):
        eventually(quiet, seconds, "every run ends and every callback is heard")
    for uuid in waited:
        history.problem(f"lost: {uuid} was acknowledged and has not ended within {seconds:g} s")
    for uuid in told:
        history.problem(f"unheard: the callback of {uuid} was not delivered within {seconds:g} s")


def _status(platform: Platform, uuid: str) -> str:
    try:
        return str(platform.record(uuid)["status"])
    except (OSError, AssertionError, ValueError):
        return ""


def judge(
    data: Path, history: History, receiver: Receiver, overlaps: list[str], leaks: list[str], seconds: float, seed: int
) -> Verdict:
    """The verdict, once the platform has stopped; its database is read as it was left."""
    rows, ends, starts = _database(data)
    for run in history.runs.values():
        _judge_run(history, run, rows.get(run.uuid))
    open_rows = [uuid for uuid, row in rows.items() if row["status"] not in TERMINAL]
    twice = [uuid for uuid, row in rows.items() if row["status"] in TERMINAL and ends[uuid] != 1]
    for uuid in open_rows:
        history.problem(f"open: {uuid} is {rows[uuid]['status']} at the end")
    for uuid in twice:
        history.problem(f"ends: {uuid} has {ends[uuid]} recorded ends")
    for text in (*overlaps, *(f"leak: {trace}" for trace in leaks)):
        history.problem(text)
    _judge_told(history, receiver, rows)
    ended = Counter(f"{row['status']} {row['reason'] or ''}".strip() for row in rows.values())
    return Verdict(
        seconds=seconds,
        seed=seed,
        faults=dict(sorted(history.faults.items())),
        accepted=len(history.runs),
        ended=dict(ended.most_common()),
        starts=sum(starts.values()),
        retried=sum(row["attempt"] > 1 for row in rows.values()),
        refused=dict(history.refused.most_common()),
        callbacks=len({told.headers["webhook-id"] for told in receiver.told}),
        samples=history.samples,
        lost=sum(text.startswith(("lost", "open")) for text in history.problems),
        double_ends=len(twice),
        overlaps=len(overlaps),
        leaks=len(leaks),
        problems=history.problems,
    )


def _judge_run(history: History, run: Acknowledged, row: dict[str, Any] | None) -> None:
    if row is None:
        history.problem(f"lost: {run.uuid} was acknowledged and has no record")
        return
    outcome = f"{run.uuid} ended {row['status']} {row['reason']}"
    match row["status"]:
        case "Success":
            if json.loads(row["output"]) != run.n:
                history.problem(f"wrong: {outcome} with {row['output']}, not {run.n}")
        case "Failure":
            if row["reason"] not in PLATFORM_REASONS or row["attempt"] != ATTEMPTS:
                history.problem(f"wrong: {outcome} at attempt {row['attempt']}: {row['output']}")
        case "Cancelled":
            if run.uuid not in history.cancelled:
                history.problem(f"wrong: {outcome}, and nobody cancelled it")
    if run.told is not None and (row["status"], json.loads(row["output"] or "null")) != ("Success", run.told):
        history.problem(f"wrong: the caller of {run.uuid} was told {run.told}, and it {outcome}")
    if row["attempt"] > ATTEMPTS:
        history.problem(f"wrong: {run.uuid} had {row['attempt']} attempts")


def _judge_told(history: History, receiver: Receiver, rows: dict[str, dict[str, Any]]) -> None:
    for told in receiver.told:
        uuid, data = told.headers["webhook-id"], told.json["data"]
        row = rows.get(uuid)
        if row is None or (data["status"], data["reason"]) != (row["status"], row["reason"]):
            history.problem(
                f"wrong: the receiver was told {data['status']} {data['reason']} of {uuid}, recorded: {row}"
            )


def _database(data: Path) -> tuple[dict[str, dict[str, Any]], Counter[str], Counter[str]]:
    """Every run's row, and how many ends and starts of each were noted."""
    with contextlib.closing(sqlite3.connect(f"file:{data}/db/faaspot.db?mode=ro", uri=True)) as database:
        database.row_factory = sqlite3.Row
        columns = "uuid, status, reason, output, attempt"
        rows = {
            row["uuid"]: dict(row) for row in database.execute(f"SELECT {columns} FROM executions WHERE kind = 'run'")
        }
        noted = database.execute("SELECT execution, what, count(*) FROM events GROUP BY execution, what").fetchall()
    ends = Counter({uuid: count for uuid, what, count in noted if what == "ended" and uuid in rows})
    starts = Counter({uuid: count for uuid, what, count in noted if what == "started" and uuid in rows})
    return rows, ends, starts
