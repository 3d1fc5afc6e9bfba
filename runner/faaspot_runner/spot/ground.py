"""What a spot stands on: found and opened at its start, closed at its end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from faaspot_runner.contract import Network
from faaspot_runner.environments.build import Environments
from faaspot_runner.sandbox.cgroups import Cgroups
from faaspot_runner.sandbox.network import Egress
from faaspot_runner.sandbox.spec import Interpreter
from faaspot_runner.settings import Settings
from faaspot_runner.spot.engine import EngineWatch
from faaspot_runner.spot.runtimes import TypeMeans


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """What a spot works with. `runtimes`: the types that this machine offers by itself; `watch`: its Docker engine's,
    None if the type `docker` is not to be offered.
    """

    settings: Settings
    runtimes: tuple[str, ...]
    interpreters: Mapping[str, Interpreter]
    environments: Environments
    cgroups: Cgroups | None
    egress: Egress | None
    watch: EngineWatch | None
    problems: tuple[str, ...]

    @property
    def limits(self) -> Literal["cgroup", "rlimit", "none"]:
        if "sandbox" not in self.runtimes:
            return "none"
        return "cgroup" if self.cgroups else "rlimit"

    @property
    def networks(self) -> tuple[Network, ...]:
        # A process that nothing isolates has the host's network, whatever it asked for.
        reaches = self.egress is not None or "sandbox" not in self.runtimes
        return ("none", "internet") if reaches else ("none",)

    @property
    def lists(self) -> bool:
        """Whether a sandbox here can be held to an allow-list."""
        return self.egress is not None and self.egress.unlisted is None

    @property
    def told(self) -> tuple[str, ...]:
        """Why something is not offered now."""
        away = self.watch.problem if self.watch else None
        return (*self.problems, f"runtime docker: {away}") if away else self.problems

    def means(self) -> dict[str, TypeMeans]:
        """What the runtimes of each type get of this spot."""
        ways = {"cgroups": self.cgroups, "egress": self.egress}
        own = {
            "sandbox": TypeMeans(
                given={
                    **ways,
                    "runs": self.settings.most_runs,
                    "blanks": self.settings.blanks,
                    "shared_start": self.settings.shared_start,
                }
            ),
            "process": TypeMeans(given={"directory": self.settings.home / "process"}),
        }
        means = {name: own[name] for name in self.runtimes}
        if self.watch is not None:
            means["docker"] = self._docker(self.watch, ways)
        return means

    def _docker(self, watch: EngineWatch, ways: Mapping[str, object]) -> TypeMeans:
        settings = self.settings
        given = {
            "engine": watch.engine,
            "owner": watch.owner,
            "directory": settings.home / "docker",
            "environments": settings.data_dir / "environments",
            "blanks": settings.blanks,
            **ways,
        }
        defaults = {"image": settings.docker_image}
        if settings.oci_runtime:
            defaults["oci_runtime"] = settings.oci_runtime
        return TypeMeans(given=given, defaults=defaults, lazy=True, away=lambda: watch.problem)
