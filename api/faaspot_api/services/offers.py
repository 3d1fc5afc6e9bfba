"""What the spots offer, and whether a deployment's settings can be had there."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass

from faaspot_api.domain.model import Settings
from faaspot_api.errors import ApiError, FieldError, Invalid
from faaspot_api.queue.base import SpotSeen
from faaspot_api.services.spots import is_online
from faaspot_runner.contract import Network, SpotInfo

RUNTIME = "sandbox"
OWN_PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
"""The version for a deployment that is made while no spot is there to say what it has: this one exists at least."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Offers:
    """The union of what the online spots offer; empty while there is none."""

    online: bool
    networks: frozenset[str]
    runtimes: tuple[str, ...]
    pythons: tuple[str, ...]
    python: str

    @classmethod
    def of(cls, seen: Iterable[SpotSeen]) -> Offers:
        """The offers of those spots that are online. The first one's first Python is the default."""
        infos = [spot.info for spot in seen if is_online(spot)]
        return cls(
            online=bool(infos),
            networks=frozenset(network for info in infos for network in info.networks),
            runtimes=_once(runtime for info in infos for runtime in info.runtimes),
            pythons=_once(python for info in infos for python in info.pythons),
            python=_first_python(infos),
        )

    @property
    def network(self) -> Network:
        """What a deployment gets that does not say."""
        return "internet" if "internet" in self.networks else "none"

    def check(self, said: Settings, runtime: str) -> None:
        """Raises Invalid if an online spot does not offer what was asked for (or, not said, the `runtime`).

        With no spot online only what is the default everywhere can be promised.
        """
        self._check_python(said.python)
        runtimes = self.runtimes if self.online else (RUNTIME,)
        if runtime not in runtimes:
            raise _refusal("runtime", "runtime_unavailable", self._sentence(f"runtime {runtime}", runtimes))
        if said.network == "internet" and "internet" not in self.networks:
            offered = tuple(sorted(self.networks)) or ("none",)
            raise _refusal("network", "network_unavailable", self._sentence("network internet", offered))

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
