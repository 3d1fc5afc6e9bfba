"""Starts `compose.yaml` as `docker compose` would, on machines that have an engine and no Compose (Debian's docker.io).

Only the keys that the file uses are known; another one is an error, so that none is passed over. Names of services,
networks and volumes get a prefix of their own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.docker_engine import docker, inspect
from tests.platforms import ROOT, eventually

KEYS = {
    *(
        "build",
        "cap_drop",
        "command",
        "depends_on",
        "environment",
        "healthcheck",
        "image",
        "networks",
        "ports",
        "profiles",
    ),
    *("read_only", "restart", "secrets", "security_opt", "stop_grace_period", "tmpfs", "user", "volumes"),
}
HEALTH_SECONDS = 90.0


@dataclass
class Project:
    """One copy of the file's services. `variables`: what `${NAME}` in it stands for. `secrets`: where their files are.

    `environment`: more variables for a service; `profiles`: those that are active.
    """

    name: str
    variables: Mapping[str, str]
    secrets: Path
    environment: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    profiles: Sequence[str] = ()
    _document: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        self._document = self._interpolated(yaml.safe_load((ROOT / "compose.yaml").read_text()))

    @property
    def services(self) -> dict[str, dict[str, Any]]:
        known: dict[str, dict[str, Any]] = self._document["services"]
        return {name: given for name, given in known.items() if self._is_active(given)}

    def _is_active(self, given: Mapping[str, Any]) -> bool:
        profiles = given.get("profiles", ())
        return not profiles or not set(profiles).isdisjoint(self.profiles)

    def container(self, service: str) -> str:
        return f"{self.name}-{service}"

    def network(self, name: str) -> str:
        return f"{self.name}-{name}"

    # ------------------------------------------------------------ life

    def furnish(self) -> None:
        """Make the networks and volumes."""
        for name, given in self._document["networks"].items():
            internal = ["--internal"] if (given or {}).get("internal") else []
            docker("network", "create", *internal, self.network(name))
        for name in self._document["volumes"]:
            docker("volume", "create", f"{self.name}-{name}")

    def up(self) -> None:
        """Start each service as soon as those that it depends on are as it needs them."""
        waiting = dict(self.services)
        while waiting:
            ready = [name for name, given in waiting.items() if not waiting.keys() & given.get("depends_on", {}).keys()]
            assert ready, f"a circle: {list(waiting)}"
            for name in ready:
                for other, need in waiting[name].get("depends_on", {}).items():
                    self._await(other, need["condition"])
                self._start(name, waiting.pop(name))

    def stop(self) -> dict[str, int]:
        """Stop every service, those first that need the others; their exit codes."""
        codes = {}
        for name in reversed(self._order()):
            grace = self.services[name].get("stop_grace_period", "10s").removesuffix("s")
            docker("stop", "--time", grace, self.container(name))
            codes[name] = int(inspect(self.container(name))["State"]["ExitCode"])
        return codes

    def remove(self) -> None:
        """Take everything away."""
        docker("rm", "--force", "--volumes", *map(self.container, self.services), check=False)
        docker("network", "rm", *map(self.network, self._document["networks"]), check=False)
        docker("volume", "rm", *(f"{self.name}-{name}" for name in self._document["volumes"]), check=False)

    def healthy(self, service: str) -> None:
        """Returns when the service's health check says so."""
        self._await(service, "service_healthy")

    def logs(self) -> str:
        """What all services wrote."""
        found = [(name, docker("logs", self.container(name), check=False)) for name in self.services]
        return "\n".join(f"== {name}\n{done.stdout}{done.stderr}" for name, done in found)

    # ------------------------------------------------------------ one service

    def _start(self, name: str, given: Mapping[str, Any]) -> None:
        container = self.container(name)
        first, *others = given["networks"]
        options = [*self._rights(given), *self._places(given), *self._health(given.get("healthcheck"))]
        for variable, value in {**given.get("environment", {}), **self.environment.get(name, {})}.items():
            options += ["--env", f"{variable}={value}"]
        for published in given.get("ports", ()):
            options += ["--publish", published]
        options += ["--network", self.network(first), "--network-alias", name]
        docker("create", "--name", container, *options, given["image"], *given.get("command", ()))
        for other in others:
            docker("network", "connect", "--alias", name, self.network(other), container)
        docker("start", container)

    def _rights(self, given: Mapping[str, Any]) -> list[str]:
        unknown = given.keys() - KEYS
        assert not unknown, f"what is not understood here would be passed over: {unknown}"
        options = ["--read-only"] if given.get("read_only") else []
        options += ["--user", given["user"]] if "user" in given else []
        options += [f"--cap-drop={each}" for each in given.get("cap_drop", ())]
        options += [f"--security-opt={each}" for each in given.get("security_opt", ())]
        return [*options, f"--restart={given['restart']}"]

    def _places(self, given: Mapping[str, Any]) -> list[str]:
        options = [f"--tmpfs={each}" for each in given.get("tmpfs", ())]
        options += [f"--volume={self.name}-{each}" for each in given.get("volumes", ())]
        for secret in given.get("secrets", ()):
            assert self._document["secrets"][secret] == {"file": f"./secrets/{secret}"}
            options.append(f"--volume={self.secrets / secret}:/run/secrets/{secret}:ro")
        return options

    def _health(self, given: Mapping[str, Any] | None) -> Sequence[str]:
        if given is None:
            return ()
        if given.get("disable"):
            return ("--no-healthcheck",)
        kind, command = given["test"]
        assert kind == "CMD-SHELL"
        timing = [f"--health-{name}={given[name]}" for name in ("interval", "timeout", "retries")]
        return (f"--health-cmd={command}", *timing)

    def _await(self, service: str, condition: str) -> None:
        container = self.container(service)

        def reached() -> bool:
            state = inspect(container)["State"]
            ended = state["Status"] == "exited"
            if condition == "service_completed_successfully":
                assert not ended or state["ExitCode"] == 0, docker("logs", container).stderr
                return bool(ended)
            assert condition == "service_healthy"
            assert not ended, f"{service} ended:\n{self.logs()}"
            return bool(state["Health"]["Status"] == "healthy")

        eventually(reached, HEALTH_SECONDS, f"{service}: {condition}")

    def _order(self) -> list[str]:
        order: list[str] = []
        while len(order) < len(self.services):
            order += [
                name
                for name, given in self.services.items()
                if name not in order and given.get("depends_on", {}).keys() <= set(order)
            ]
        return order

    def _interpolated(self, value: Any) -> Any:
        text = re.sub(r"\$\{(\w+):-([^}]*)\}", lambda match: self.variables.get(match[1], match[2]), json.dumps(value))
        return json.loads(text.replace("$$", "$"))
