"""What the lines share: one platform for all of them, and how often and how long each thing is measured."""

from __future__ import annotations

import contextlib
import os
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from tests.platforms import Platform, descendants, platform

from bench.measure import Target

HELLO = "def main(args, context):\n    return 'Hello ' + args['name']\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One thing that was measured, a value for each repeat. `better`: which way is better."""

    line: str
    what: str
    unit: str
    values: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.values)


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """A target of performance.md. `most` or `least` bounds the value; the other is None."""

    line: str
    what: str
    value: float
    most: float | None = None
    least: float | None = None

    @property
    def verdict(self) -> str:
        """Met, or by how much not."""
        if self.most is not None:
            return "met" if self.value <= self.most else f"missed: {self.value / self.most:.2f} times as much"
        assert self.least is not None
        return "met" if self.value >= self.least else f"missed: {self.value / self.least:.2f} of it"


@dataclass(slots=True, kw_only=True)
class Findings:
    """What the lines have found."""

    rows: list[Row] = field(default_factory=list)
    goals: list[Goal] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def row(self, line: str, what: str, unit: str, values: list[float]) -> Row:
        """Keep the values of one thing."""
        found = Row(line=line, what=what, unit=unit, values=tuple(values))
        self.rows.append(found)
        return found

    def at_most(self, line: str, what: str, value: float, most: float) -> None:
        self.goals.append(Goal(line=line, what=what, value=value, most=most))

    def at_least(self, line: str, what: str, value: float, least: float) -> None:
        self.goals.append(Goal(line=line, what=what, value=value, least=least))


def ratio(ours: Row, theirs: Row) -> float:
    """The median over the repeats of ours / theirs: what disturbed one repeat disturbed both of its sides."""
    pairs = zip(ours.values, theirs.values, strict=True)
    return statistics.median(mine / other for mine, other in pairs)


class Scene:
    """One bench run. The platform is started by the first line that needs it."""

    def __init__(self, *, repeats: int, seconds: float, deployments: int) -> None:
        self.repeats = repeats
        self.seconds = seconds
        self.deployments = deployments
        self.setup = "root" if os.geteuid() == 0 else "user"
        self._stack = contextlib.ExitStack()
        self._platform: Platform | None = None
        self._names: set[str] = set()

    def __enter__(self) -> Scene:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stack.__exit__(kind, error, at)

    @property
    def platform(self) -> Platform:
        if self._platform is None:
            self._platform = self._stack.enter_context(platform(self.setup))
        return self._platform

    def deploy(self, name: str, code: str = HELLO, **settings: object) -> None:
        """A deployment that is ready, once for all lines."""
        if name not in self._names:
            self.platform.deploy(name, code, **settings)
            self._names.add(name)

    def target(self, name: str) -> Target:
        """The sync address of a deployment."""
        return Target(
            host=self.platform.host,
            port=self.platform.port,
            path=f"/v1/sync/deployments/{name}/rpc/",
            headers={"Authorization": f"Token {self.platform.token}"},
        )

    def interleaved(self, measures: Mapping[str, Callable[[], float]]) -> dict[str, list[float]]:
        """Each measure once in every repeat, so that all of them meet the same neighbours."""
        found: dict[str, list[float]] = {name: [] for name in measures}
        for _ in range(self.repeats):
            for name, measure in measures.items():
                found[name].append(measure())
        return found

    def memory_mb(self) -> float:
        """Proportional memory of all that the platform has started."""
        assert self.platform.process is not None
        return sum(map(_pss_kb, descendants(self.platform.process.pid))) / 1024


def _pss_kb(pid: int) -> int:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1])
    return 0
