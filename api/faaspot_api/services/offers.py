"""What the spots offer, and whether a deployment's settings can be had there."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from faaspot_api.domain.egress import listed
from faaspot_api.domain.model import Settings
from faaspot_api.domain.runtimes import stack, types_of
from faaspot_api.errors import ApiError, FieldError, Invalid
from faaspot_api.queue.base import SpotSeen
from faaspot_runner.contract import Network, SpotInfo
from faaspot_runner.contract.runtimes import BUILT_IN, RUNTIME_TYPES, RuntimeWanted

RUNTIME = "sandbox"
OWN_PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
"""The version for a deployment that is made while no spot is there to say what it has: this one exists at least."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Offers:
    """The union of what the online spots offer; empty while there is none.

    `spots`: the runtimes of each, `listing`: of each that enforces allow-lists, `problems`: why others do not;
    `wanted`: the runtimes that people defined.
    """

    online: bool
    spots: tuple[frozenset[str], ...]
    listing: tuple[frozenset[str], ...]
    problems: tuple[str, ...]
    wanted: Mapping[str, RuntimeWanted]
    networks: frozenset[str]
    runtimes: tuple[str, ...]
    pythons: tuple[str, ...]
    python: str

    @classmethod
    def of(cls, seen: Iterable[SpotSeen], wanted: Iterable[RuntimeWanted]) -> Offers:
        """The offers of those spots that are online. The first one's first Python is the default."""
        infos = [spot.info for spot in seen if spot.is_online]
        return cls(
            online=bool(infos),
            spots=tuple(frozenset(info.runtimes) for info in infos),
            listing=tuple(frozenset(info.runtimes) for info in infos if info.egress and "internet" in info.networks),
            problems=_once(text for info in infos for text in info.problems if text.startswith(("egress", "network"))),
            wanted={each.definition.name: each for each in wanted},
            networks=frozenset(network for info in infos for network in info.networks),
            runtimes=_once(runtime for info in infos for runtime in info.runtimes),
            pythons=_once(python for info in infos for python in info.pythons),
            python=_first_python(infos),
        )

    @property
    def network(self) -> Network:
        """What a deployment gets that does not say."""
        return "internet" if "internet" in self.networks else "none"

    def check(self, said: Settings, settings: Settings) -> None:
        """Raises Invalid if no online spot offers what was `said` (or, of the filled `settings`, runtime and egress).

        With no spot online only what is the default everywhere can be promised.
        """
        self._check_python(said.python)
        runtime = settings.runtime or RUNTIME
        self._check_runtime(runtime)
        if said.network == "internet" and "internet" not in self.networks:
            offered = tuple(sorted(self.networks)) or ("none",)
            raise _refusal("network", "network_unavailable", self._sentence("network internet", offered))
        if listed(settings.egress) is not None:
            self._check_egress(runtime)

    def _check_egress(self, runtime: str) -> None:
        """Raises Invalid (`network_unavailable`) if nobody can hold a deployment of this runtime to an allow-list."""
        needed = self._types(runtime)
        known = {**BUILT_IN, **{each: wish.definition for each, wish in self.wanted.items()}}
        weak = [each for each in stack(runtime, known) if each.external or not RUNTIME_TYPES[each.type].egress]
        if weak:
            kind = f"{'an external' if weak[0].external else 'a'} runtime of type {weak[0].type}"
            text = f"{kind} cannot be held to an allow-list"
            raise _refusal("egress", "network_unavailable", f"{text}; leave egress out, or choose another runtime")
        if not any(needed <= offered for offered in self.listing):
            text = "no online spot that offers this can hold it to an allow-list"
            raise _refusal("egress", "network_unavailable", "; ".join([text, *self.problems]))

    def _types(self, runtime: str) -> frozenset[str]:
        return types_of(runtime, {each: wish.definition for each, wish in self.wanted.items()})

    def check_types(self, name: str) -> None:
        """Raises Invalid (`runtime_unavailable`) if no online spot offers every type that this runtime rests on."""
        needed = self._types(name)
        if not any(needed <= offered for offered in self.spots):
            what = f"runtime {name} (it rests on {', '.join(sorted(needed))})"
            raise _refusal("runtime", "runtime_unavailable", self._sentence(what, self.runtimes))

    def _check_runtime(self, name: str) -> None:
        wish = self.wanted.get(name)
        if wish is None:
            offered = self.runtimes if self.online else (RUNTIME,)
            if name not in BUILT_IN or name not in offered:
                raise _refusal("runtime", "runtime_unavailable", self._sentence(f"runtime {name[:63]}", offered))
            return
        self.check_types(name)
        if wish.wanted == "down":
            text = f"{name} is not in service; an admin puts it there: fas runtimes deploy {name}"
            raise _refusal("runtime", "runtime_unavailable", text)

    def _check_python(self, asked: str | None) -> None:
        pythons = self.pythons if self.online else (self.python,)
        if asked is not None and asked not in pythons:
            raise Invalid.fields(FieldError(field="python", message=self._sentence(f"python {asked[:20]}", pythons)))

    def _sentence(self, what: str, offered: tuple[str, ...]) -> str:
        who = "no online spot offers" if self.online else "no spot is online, so nobody offers"
        return f"{who} {what}; there is {', '.join(offered) or 'none'}"


def _first_python(infos: list[SpotInfo]) -> str:
    return next((python for info in infos for python in info.pythons), OWN_PYTHON)


def _once(values: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(values))


def _refusal(field: str, code: str, message: str) -> ApiError:
    return Invalid(f"{field}: {message}", code=code, errors=(FieldError(field=field, message=message),))
