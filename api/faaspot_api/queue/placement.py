"""Which line a wake-up goes into: the common one, from which idle workers of every spot take, or one spot's own.

By ability first: what not every online spot can run goes to one that can, and what one has lost goes to another. Then
by warmth: to a spot that has the version's sandbox and room. Then by load: that is what the common line does by itself,
since only who is free takes. With one spot there is nothing to choose, and nothing is placed.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from faaspot_api.queue.base import SpotSeen
from faaspot_runner.contract import BuildRequest, RunRequest, SandboxSpec, SpotInfo
from faaspot_runner.contract.spots import own_line

FRESH_SECONDS = 1.0
"""What was seen of the spots counts for this long; what was placed meanwhile is counted on top of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """A request as it is to be sent, and the line for it."""

    request: RunRequest | BuildRequest
    line: str


def is_able(info: SpotInfo, request: RunRequest | BuildRequest) -> bool:
    """Whether a spot offers all that this request needs."""
    if isinstance(request, BuildRequest):
        return request.runtime in info.runtimes and request.python in info.pythons
    return can_hold(info, request.sandbox)


def can_hold(info: SpotInfo, spec: SandboxSpec) -> bool:
    """Whether a spot offers all that a sandbox of this version needs."""
    limits = spec.limits
    return (
        spec.runtime in info.runtimes
        and spec.python in info.pythons
        and limits.network in info.networks
        and (limits.egress is None or info.egress)
    )


def choose(
    request: RunRequest | BuildRequest, queue: str, infos: Sequence[SpotInfo], placed: Counter[str]
) -> tuple[Placed, str | None]:
    """Where it goes, and the address of the spot that was chosen. `placed`: what each got since it was looked at."""
    if isinstance(request, BuildRequest):
        request = replace(request, archive=any(info.remote for info in infos))
    takers, able = _able(infos, queue, request)
    if not able:
        return Placed(request=request, line=queue), None
    if isinstance(request, RunRequest):
        # With one spot, too: before its turn comes another one may have joined that cannot run it.
        request = replace(request, elsewhere=True)
    if len(infos) < 2:
        return Placed(request=request, line=queue), None
    if others := _others(able, request.avoid):
        chosen: SpotInfo | None = min(others, key=lambda info: _filled(info, queue, placed))
    else:
        chosen = _warm(able, queue, request.sandbox.version_id, placed) if isinstance(request, RunRequest) else None
    if chosen is None and len(able) < len(takers):
        chosen = min(able, key=lambda info: _filled(info, queue, placed))
    line = queue if chosen is None else own_line(queue, chosen.ip)
    return Placed(request=request, line=line), None if chosen is None else chosen.ip


def _able(
    infos: Sequence[SpotInfo], queue: str, request: RunRequest | BuildRequest
) -> tuple[Sequence[SpotInfo], list[SpotInfo]]:
    """Who takes from the queue, and who of them can run it. Who has no worker for it counts only if nobody else can:
    there it waits for one to be started.
    """
    manned = [info for info in infos if info.workers.get(queue)]
    able = [info for info in manned if is_able(info, request)]
    return (manned, able) if able else (infos, [info for info in infos if is_able(info, request)])


def _others(able: Sequence[SpotInfo], avoid: str | None) -> list[SpotInfo]:
    """Who can do it beside the spot that is to be avoided; nobody if that does not take work, or nobody else does."""
    others = [info for info in able if info.ip != avoid]
    return others if len(others) < len(able) else []


def _warm(able: Sequence[SpotInfo], queue: str, version_id: str, placed: Counter[str]) -> SpotInfo | None:
    """The least loaded spot with this version's sandbox and room for a run, unless every one has it."""
    warm = [info for info in able if version_id in info.warm]
    roomy = [info for info in warm if _filled(info, queue, placed) < 1.0]
    if not roomy or len(warm) == len(able):
        return None
    return min(roomy, key=lambda info: _filled(info, queue, placed))


def _filled(info: SpotInfo, queue: str, placed: Counter[str]) -> float:
    """How much of a spot's room for a queue is taken: 1.0 and more is all of it.

    What runs may be another queue's: better to find no room where there is some than to have runs wait beside spots
    that are free.
    """
    return (info.running + placed[info.ip]) / max(1, info.rooms.get(queue, 0))


class Placement:
    """Chooses by what the spots last told. Thread-safe. `look` gives that, and may raise Unavailable."""

    def __init__(self, look: Callable[[], Sequence[SpotSeen]], clock: Callable[[], float] = time.monotonic) -> None:
        self._look = look
        self._clock = clock
        self._lock = threading.Lock()
        self._looked = float("-inf")
        self._infos: tuple[SpotInfo, ...] = ()
        self._placed: Counter[str] = Counter()

    def place(self, request: RunRequest | BuildRequest, queue: str) -> Placed:
        """The common line where nothing speaks for another. Raises Unavailable if the server of the line is away."""
        self._refresh()
        with self._lock:
            placed, ip = choose(request, queue, self._infos, self._placed)
            if ip is not None:
                self._placed[ip] += 1
        return placed

    def _refresh(self) -> None:
        """Look anew if it is time; who comes while another one looks goes by what is known."""
        with self._lock:
            now = self._clock()
            if now - self._looked < FRESH_SECONDS:
                return
            self._looked = now
        seen = self._look()  # where nobody answers that, nobody takes the wake-up either
        with self._lock:
            self._infos = tuple(spot.info for spot in seen if spot.is_online)
            self._placed = Counter()
