"""What can be said of a runtime of type `docker`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from faaspot_runner.contract.runtimes import RUNTIME_TYPES
from faaspot_runner.errors import DeploymentDefinitionError
from faaspot_runner.settings import DOCKER_IMAGE

_KINDS: Mapping[str, Callable[[str], Any]] = {"cpus": float, "memory": int, "pids": int, "runs": int}


@dataclass(frozen=True, slots=True, kw_only=True)
class DockerConfig:
    """The keys of `DeploymentConfig.config`, all of them optional, all said as texts.

    `image`: the base image; `{python}` in it stands for the deployment's version. It must have that CPython.
    `pull`: "missing" fetches an image that the engine does not have, "never" does not.
    `oci_runtime`: a runtime that the engine knows (`crun`, `runsc`, ...), "" for its default.
    `cpus`: processors that one container may use, 0 for all of them.
    `memory` (MB) and `pids`: of one container; 0 for what its deployment's limits ask for.
    `runs`: for how many runs at once `memory` and `pids` of 0 leave room, where no cgroup of ours counts each run.
    `container`: of an external runtime, name or id of the container that the user runs.
    """

    image: str = DOCKER_IMAGE
    pull: str = "missing"
    oci_runtime: str = ""
    cpus: float = 0.0
    memory: int = 0
    pids: int = 0
    runs: int = 8
    container: str = ""

    @classmethod
    def of(cls, name: str, said: Mapping[str, Any], *, external: bool) -> DockerConfig:
        """The config of the runtime `name`. Raises DeploymentDefinitionError that names the key."""
        for key, value in said.items():
            if problem := RUNTIME_TYPES["docker"].config_problem(key, value):
                raise _wrong(name, key, problem)
        config = cls(**{key: _KINDS.get(key, str)(value) for key, value in said.items()})
        if external != bool(config.container):
            text = "is required" if external else "is only for an external runtime"
            raise _wrong(name, "container", text)
        return config

    def image_for(self, python: str) -> str:
        """The base image for a minor version."""
        return self.image.replace("{python}", python)


def _wrong(name: str, key: str, text: str) -> DeploymentDefinitionError:
    return DeploymentDefinitionError(name, f"The runtime `{name}` cannot be: config.{key}: {text}.")
