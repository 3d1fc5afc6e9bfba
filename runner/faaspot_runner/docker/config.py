"""What can be said of a runtime of type `docker`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from faaspot_runner.errors import DeploymentDefinitionError
from faaspot_runner.settings import DOCKER_IMAGE

_IMAGE = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._:/@{}-]{0,254}")
_NUMBER = re.compile(r"[0-9]{1,9}(\.[0-9]{1,3})?")
_WORD = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}")


@dataclass(frozen=True, slots=True, kw_only=True)
class DockerConfig:
    """The keys of `DeploymentConfig.config`, all of them optional.

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
        known = {field.name for field in fields(cls)}
        for key in said:
            if key not in known:
                raise _wrong(name, key, f"is not a key of the type docker. Keys: {', '.join(sorted(known))}")
        config = cls(**{key: _typed(name, key, value) for key, value in said.items()})
        _check(name, config)
        if external != bool(config.container):
            text = "is required" if external else "is only for a runtime with external: true"
            raise _wrong(name, "container", text)
        return config

    def image_for(self, python: str) -> str:
        """The base image for a minor version."""
        return self.image.replace("{python}", python)


def _typed(name: str, key: str, value: Any) -> Any:
    """The value; a number may come as its text, as a command line has it."""
    kinds: dict[str, type] = {"cpus": float, "memory": int, "pids": int, "runs": int}
    kind = kinds.get(key)
    if kind is None:
        if not isinstance(value, str):
            raise _wrong(name, key, "must be a text")
        return value
    text = "" if isinstance(value, bool) else str(value)
    if not _NUMBER.fullmatch(text) or (kind is int and not text.isdecimal()):
        raise _wrong(name, key, "must be a number")
    return kind(text)


def _check(name: str, config: DockerConfig) -> None:
    if not _IMAGE.fullmatch(config.image) or config.image.replace("{python}", "").count("{"):
        raise _wrong(name, "image", "is not the name of an image, such as python:{python}-slim")
    if config.pull not in ("missing", "never"):
        raise _wrong(name, "pull", "must be missing or never")
    for key in ("oci_runtime", "container"):
        value = getattr(config, key)
        if value and not _WORD.fullmatch(value):
            raise _wrong(name, key, "is not a name: letters, digits, dots, dashes and underscores")
    bounds = {"cpus": (0, 4096), "memory": (64, 1 << 24), "pids": (16, 1 << 22), "runs": (1, 4096)}
    for key, (least, most) in bounds.items():
        value = getattr(config, key)
        if not (least <= value <= most or (value == 0 and key != "runs")):
            raise _wrong(name, key, f"must be between {least} and {most}")


def _wrong(name: str, key: str, text: str) -> DeploymentDefinitionError:
    return DeploymentDefinitionError(name, f"The runtime `{name}` cannot be: config.{key} {text}.")
