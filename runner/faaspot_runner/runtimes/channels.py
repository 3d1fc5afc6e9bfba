"""The channels of one worker to zygotes: idle ones are kept for the next run, new ones come from the spot."""

from __future__ import annotations

import select
import threading
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, field, replace

from faaspot_runner.contract import SandboxSpec
from faaspot_runner.errors import SandboxError
from faaspot_runner.runtimes.spot_socket import Offered, SpotClient
from faaspot_runner.sandbox.cgroups import RunSlots
from faaspot_runner.sandbox.channel import Channel
from faaspot_runner.sandbox.kept import Kept

RESERVED = 2
"""Idle channels of one spec that have a fresh process for their next run."""
RESERVED_SECONDS = 5.0
"""How long such a process waits for it."""
IDLE_CHANNELS = 256
"""Idle channels that one worker keeps; each is a descriptor here and in a zygote."""


class StoppedError(Exception):
    """The asker was stopped while it waited for a sandbox."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Warm:
    """A channel to use for one run.

    `counted`: it goes into a cgroup slot; `cold`: it waited for the sandbox's start; `log`: what the import printed;
    `kept`: a process that waits for this run. `since`: when the channel became idle (`time.monotonic`).
    """

    channel: Channel
    spec: SandboxSpec
    sandbox: str
    counted: bool
    cold: bool = False
    import_ms: float = 0.0
    imports: Mapping[str, float] = field(default_factory=dict)
    log: str = ""
    kept: Kept | None = None
    since: float = 0.0


class Channels:
    """Idle channels by spec, the one used last first. Shared by a worker's threads.

    `slots`: where the slots of kept processes come from.
    """

    def __init__(self, spot: SpotClient, keep: int = IDLE_CHANNELS, slots: RunSlots | None = None) -> None:
        self._spot = spot
        self._slots = slots
        self._keep = keep
        self._lock = threading.Lock()
        self._idle: OrderedDict[SandboxSpec, deque[Warm]] = OrderedDict()
        self._count = 0
        self._used: set[str] = set()
        self._busy: Counter[str] = Counter()
        self._gone: set[str] = set()  # of the busy ones: nothing else can come back

    def acquire(
        self,
        spec: SandboxSpec,
        seconds: float,
        *,
        avoid: str | None = None,
        on_stop: Callable[[Callable[[], None] | None], None],
    ) -> Warm:
        """A channel to the spec's sandbox: an idle one, or from the spot within `seconds`.

        `avoid`: a sandbox that just failed. `on_stop` takes what is to be called when the run must not go on. Raises
        SandboxError, with the reason `timeout` if the start took too long; StoppedError; SpotGoneError.
        """
        if avoid is None and (warm := self._pop(spec)) is not None:
            return warm
        future = self._spot.acquire(spec, seconds, avoid)
        on_stop(lambda: _cancel(future))
        try:
            # The spot keeps the deadline; the second on top is for its answer.
            offered = future.result(timeout=seconds + 1.0)
        except CancelledError as error:
            raise StoppedError from error
        except TimeoutError as error:
            future.cancel()
            raise SandboxError("The spot did not answer in time.") from error
        finally:
            on_stop(None)
        return self._warm(spec, offered)

    def release(self, warm: Warm) -> None:
        """Keep the channel for the next run, or close it if its sandbox is gone or there are enough."""
        with self._lock:
            if self._put_back(warm.sandbox) or _hung_up(warm.channel):
                closing = [warm]
            else:
                self._idle.setdefault(warm.spec, deque()).append(
                    Warm(
                        channel=warm.channel,
                        spec=warm.spec,
                        sandbox=warm.sandbox,
                        counted=warm.counted,
                        kept=warm.kept,
                        since=time.monotonic(),
                    )
                )
                self._idle.move_to_end(warm.spec)
                self._count += 1
                closing = self._surplus()
        self._close(closing)

    def without_process(self, warm: Warm) -> Warm:
        """End the kept process of a channel that is in use; the channel without it."""
        if warm.kept is not None:
            warm.kept.end()
            if self._slots and warm.kept.slot:
                self._slots.release(warm.kept.slot)
        return replace(warm, kept=None)

    def wants_process(self, warm: Warm) -> bool:
        """Whether a fresh process should wait for the next run on this channel, which is about to come back."""
        with self._lock:
            if warm.sandbox in self._gone or warm.spec.reuse:
                return False
            return sum(each.kept is not None for each in self._idle.get(warm.spec, ())) < RESERVED

    def tidy(self) -> None:
        """End the fresh processes that nothing has come for."""
        oldest = time.monotonic() - RESERVED_SECONDS
        ending = []
        with self._lock:
            for spec, line in self._idle.items():
                if spec.reuse:
                    continue
                for at, warm in enumerate(line):
                    if warm.kept is not None and warm.since < oldest:
                        ending.append(warm)
                        line[at] = replace(warm, kept=None)
        for warm in ending:
            self.without_process(warm)

    def discard(self, warm: Warm) -> None:
        """Close it: the zygote kills what still runs on it."""
        with self._lock:
            self._put_back(warm.sandbox)
        self._close([warm])

    def forget(self, sandbox: str) -> None:
        """Close the idle channels of a sandbox that is gone; those in use are closed when they come back."""
        with self._lock:
            if sandbox in self._busy:
                self._gone.add(sandbox)
            closing = []
            for spec, line in tuple(self._idle.items()):
                closing += [warm for warm in line if warm.sandbox == sandbox]
                left = deque(warm for warm in line if warm.sandbox != sandbox)
                if left:
                    self._idle[spec] = left
                else:
                    del self._idle[spec]
            self._count -= len(closing)
        self._close(closing)

    def used(self) -> frozenset[str]:
        """The sandboxes that were used since the last time, or are in use."""
        with self._lock:
            used = frozenset(self._used | self._busy.keys())
            self._used.clear()
        return used

    def close(self) -> None:
        with self._lock:
            closing = [warm for line in self._idle.values() for warm in line]
            self._idle.clear()
            self._count = 0
        self._close(closing)

    # ------------------------------------------------------------ inside

    def _pop(self, spec: SandboxSpec) -> Warm | None:
        """The idle channel used last that is not at its end."""
        while True:
            with self._lock:
                line = self._idle.get(spec)
                if not line:
                    return None
                warm = line.pop()
                if not line:
                    del self._idle[spec]
                self._count -= 1
            if not _hung_up(warm.channel):
                self._take(warm.sandbox)
                return warm
            self._close([warm])

    def _close(self, closing: Iterable[Warm]) -> None:
        for warm in closing:
            self.without_process(warm).channel.close()

    def _put_back(self, sandbox: str) -> bool:
        """Count one use less, in the lock. Whether the sandbox is gone meanwhile."""
        gone = sandbox in self._gone
        self._busy[sandbox] -= 1
        if not self._busy[sandbox]:
            del self._busy[sandbox]
            self._gone.discard(sandbox)
        return gone

    def _take(self, sandbox: str) -> None:
        with self._lock:
            self._used.add(sandbox)
            self._busy[sandbox] += 1

    def _warm(self, spec: SandboxSpec, offered: Offered) -> Warm:
        self._take(offered.sandbox)
        return Warm(
            channel=Channel(offered.channel),
            spec=spec,
            sandbox=offered.sandbox,
            counted=offered.counted,
            cold=offered.cold,
            import_ms=offered.import_ms,
            imports=offered.imports,
            log=offered.log,
        )

    def _surplus(self) -> list[Warm]:
        closing = []
        while self._count > self._keep:
            spec, line = next(iter(self._idle.items()))
            closing.append(line.popleft())
            if not line:
                del self._idle[spec]
            self._count -= 1
        return closing


def _cancel(future: Future[Offered]) -> None:
    future.cancel()


def _hung_up(channel: Channel) -> bool:
    """Whether the zygote has closed its end. What it has sent before (an `exited`) is left to the next run."""
    poll = select.poll()
    poll.register(channel.fileno(), 0)
    return bool(poll.poll(0))
