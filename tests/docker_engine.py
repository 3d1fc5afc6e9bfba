"""The Docker engine of the tests: is there one, what is our base image called, what stands in it."""

from __future__ import annotations

import contextlib
import hashlib
import os
from functools import cache
from pathlib import Path
from typing import Any

import docker
import pytest
from docker.errors import APIError, DockerException

from faaspot_runner.docker.engine import Engine, Owner

IMAGE = os.environ.get("FAASPOT_TEST_DOCKER_IMAGE", "faaspot-test-base")
"""An image with a CPython 3.11 and not much more; `.ci/docker` makes it."""
PLATFORM = f"test-{os.getpid()}"


@cache
def why_not() -> str:
    """Why there can be no tests with containers here; empty where there can."""
    if os.geteuid() != 0:
        return "tests with containers need root"
    try:
        client = docker.from_env(timeout=5)
        client.images.get(IMAGE)
        client.close()
    except DockerException as error:
        return f"no Docker engine with the image {IMAGE} (.ci/docker makes both): {error}"
    return ""


def needed() -> None:
    """Skip where there is no engine; in CI there must be one."""
    reason = why_not()
    if reason and os.environ.get("CI") == "true" and os.geteuid() == 0:
        pytest.fail(reason)
    if reason:
        pytest.skip(reason)


def objects(platform: str = PLATFORM) -> list[str]:
    """Every container and image of a platform: of this process' connectors, if none is said."""
    api = docker.APIClient(timeout=30)
    try:
        wanted = {"label": [f"faaspot.platform={platform}"]}
        found = [f"container {each['Id'][:12]} {each['State']}" for each in api.containers(all=True, filters=wanted)]
        found += [f"image {each['RepoTags'] or each['Id']}" for each in api.images(filters=wanted)]
        return sorted(found)
    finally:
        api.close()


def platform_of(data: Path) -> str:
    """The label's value for a platform's data directory."""
    return hashlib.sha256(str(data).encode()).hexdigest()[:10]


def processes(platform: str) -> set[int]:
    """The processes in a platform's containers, as this machine counts."""
    api = docker.APIClient(timeout=30)
    found: set[int] = set()
    try:
        for each in api.containers(filters={"label": [f"faaspot.platform={platform}"]}):
            with contextlib.suppress(APIError):  # it ended meanwhile
                found |= {int(row[1]) for row in api.top(each["Id"])["Processes"] or ()}
    finally:
        api.close()
    return found


def connector_config(directory: Path, **more: Any) -> dict[str, Any]:
    """The config of a `DockerConnector` as a spot would give it."""
    environments = directory / "environments"
    environments.mkdir(exist_ok=True)
    return {
        "engine": Engine("", os.environ),
        "owner": Owner(platform=PLATFORM, spot="127.0.0.1"),
        "directory": directory / "docker",
        "environments": environments,
        "image": IMAGE,
        **more,
    }
