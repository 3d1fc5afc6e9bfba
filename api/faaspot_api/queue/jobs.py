"""Wake-ups as RQ's jobs, and the commands that put them in line."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

from rq.utils import now as utcnow
from rq.utils import utcformat

from faaspot_api.queue.base import Attempt
from faaspot_api.queue.placement import Placed
from faaspot_api.queue.turns import ENQUEUE
from faaspot_runner.contract import JOB_FUNCTION, BuildRequest, RunRequest, dump, job_id

CHUNK = 1000
"""Jobs of one exchange."""
STEP = 50
"""Jobs of one step: others wait for so long, which is well below a millisecond."""
SMALL = 4096
"""Bytes of a job's data that are not compressed."""
CHUNK_BYTES = 16 * 1024 * 1024


def id_of(attempt: Attempt) -> str:
    """The id of an attempt's job."""
    return job_id(attempt.execution_id, attempt.attempt)


def chunks(requests: Sequence[RunRequest]) -> Iterator[Sequence[RunRequest]]:
    """Parts of at most `CHUNK` requests and, unless a single one is larger, about `CHUNK_BYTES` of arguments."""
    start = size = 0
    for at, request in enumerate(requests):
        size += len(request.args)
        if at > start and (at - start >= CHUNK or size > CHUNK_BYTES):
            yield requests[start:at]
            start, size = at, len(request.args)
    if requests:
        yield requests[start:]


def enqueueing(placed: Sequence[Placed]) -> list[tuple[Any, ...]]:
    """The commands that save these and put them in line, a few in each."""
    found = []
    for (line, lane), group in groupby(placed, key=lambda one: (one.line, _lane(one.request))):
        requests = [one.request for one in group]
        found += [_step(requests[at : at + STEP], line, lane) for at in range(0, len(requests), STEP)]
    return found


def _step(requests: Sequence[RunRequest | BuildRequest], line: str, lane: str) -> tuple[Any, ...]:
    """The command for some of one lane. Sent whole: what follows must not wait for nothing."""
    first = requests[0]
    most = first.concurrency or "" if isinstance(first, RunRequest) else ""
    jobs = [part for one in requests for part in (job_id(one.execution_id, one.attempt), one.token, _data(dump(one)))]
    return ("EVAL", ENQUEUE, 0, line, lane, most, utcformat(utcnow()), first.kind, *jobs)


def _lane(request: RunRequest | BuildRequest) -> str:
    """Who has to share the turns with others."""
    return request.sandbox.deployment if isinstance(request, RunRequest) else request.deployment


def _data(text: str) -> bytes:
    """A job's data as RQ reads it: JSON, compressed where that is worth its time."""
    data = json.dumps([JOB_FUNCTION, None, [text], {}], ensure_ascii=False).encode()
    return zlib.compress(data, 1) if len(data) > SMALL else data
