"""The settings of a deployment: ranges, defaults, and what is not there yet."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Any

from faaspot_api.domain import egress, retries
from faaspot_api.domain.model import Settings
from faaspot_api.errors import FieldError
from faaspot_runner.contract import Limits, Network
from faaspot_runner.contract.egress import ANYWHERE

MAX_DESCRIPTION = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """What a number may be, both ends included. `noun`: its unit for people."""

    least: float
    most: float
    noun: str
    whole: bool = True

    def problem(self, value: Any) -> str | None:
        """Why `value` is not taken, None if it is."""
        if isinstance(value, bool) or not isinstance(value, int if self.whole else int | float):
            return f"must be a {'whole ' if self.whole else ''}number of {self.noun}"
        if not (math.isfinite(value) and self.least <= value <= self.most):
            return f"must be from {self.least:g} to {self.most:.10g} {self.noun}"
        return None


MEGABYTES = "megabytes"
RANGES = {
    "timeout": Range(least=0.1, most=86_400, noun="seconds", whole=False),
    "memory": Range(least=16, most=1_048_576, noun=MEGABYTES),
    "pids": Range(least=1, most=32_768, noun="processes and threads"),
    "tmp": Range(least=1, most=1_048_576, noun=MEGABYTES),
    "retries": Range(least=0, most=100, noun="further starts"),
    "retry_backoff": Range(least=0, most=retries.LONGEST_PAUSE, noun="seconds", whole=False),
    "min_warm": Range(least=0, most=1000, noun="spots"),
    "max_age": Range(least=1, most=31 * 86_400, noun="seconds", whole=False),
    "concurrency": Range(least=0, most=100_000, noun="runs"),
    "keep_days": Range(least=0.05, most=36_500, noun="days", whole=False),
    "keep_runs": Range(least=0, most=1_000_000_000, noun="runs"),
}
NETWORKS: tuple[Network, ...] = ("none", "internet")


def check(settings: Settings, max_timeout: float = 86_400) -> tuple[FieldError, ...]:
    """Each value out of its range, () if all that is said can be taken. `max_timeout`: seconds, of this server."""
    ranges = RANGES | {"timeout": replace(RANGES["timeout"], most=max_timeout)}
    said = {row.name: value for row in fields(settings) if (value := getattr(settings, row.name)) is not None}
    problems = {name: ranges[name].problem(said[name]) for name in ranges if name in said}
    problems |= {name: _word_problem(name, said[name]) for name in ("network", "description") if name in said}
    listed = () if settings.egress is None else tuple(egress.problems(settings.egress))
    plain = (FieldError(field=name, message=problem) for name, problem in problems.items() if problem)
    return (*plain, *listed, *retries.problems(settings))


def _word_problem(name: str, value: str) -> str | None:
    if name == "network":
        return None if value in NETWORKS else f"must be one of {', '.join(NETWORKS)}"
    return None if len(value) <= MAX_DESCRIPTION else f"must be at most {MAX_DESCRIPTION} characters long"


def check_filled(settings: Settings) -> tuple[FieldError, ...]:
    """What does not fit together once every value is there."""
    if settings.tmp is not None and settings.memory is not None and settings.tmp > settings.memory:
        message = f"must be at most the memory ({settings.memory} {MEGABYTES}): files in /tmp are kept in memory"
        return (FieldError(field="tmp", message=message),)
    if egress.listed(settings.egress) is not None and settings.network != "internet":
        message = f'needs `network` internet; to have neither, say ["{ANYWHERE}"] here'
        return (FieldError(field="egress", message=message),)
    return ()


def merged(change: Settings, base: Settings) -> Settings:
    """`base` with all that `change` says."""
    said = {row.name: value for row in fields(change) if (value := getattr(change, row.name)) is not None}
    return replace(base, **said)


def implied(settings: Settings) -> Settings:
    """A new deployment's settings with what they mean without saying it: an allow-list is of the internet."""
    if settings.network is None and egress.listed(settings.egress) is not None:
        return replace(settings, network="internet")
    return settings


def filled(settings: Settings, *, network: Network, python: str, runtime: str) -> Settings:
    """The settings with a value everywhere; `network`, `python` and `runtime` are what the spots offer by default."""
    memory = Limits().memory if settings.memory is None else settings.memory
    return merged(
        settings,
        Settings(
            timeout=Limits().timeout,
            memory=memory,
            pids=Limits().pids,
            tmp=min(Limits().tmp, max(1, memory // 2)),
            network=network,
            python=python,
            runtime=runtime,
            sdist=False,
            reuse=False,
            description="",
            retry_on=(),
            retry_backoff=0.0,
            callback_url="",
            concurrency=0,
            min_warm=0,
        ),
    )


def of(settings: Settings) -> Limits:
    """What a run of these (filled) settings may take."""
    standard = Limits()
    return Limits(
        timeout=standard.timeout if settings.timeout is None else float(settings.timeout),
        memory=settings.memory or standard.memory,
        pids=settings.pids or standard.pids,
        tmp=settings.tmp or standard.tmp,
        network=settings.network or standard.network,
        egress=egress.listed(settings.egress),
    )
