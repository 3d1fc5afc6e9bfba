"""The Docker engine of the tests: is there one, what is our base image called, what stands in it, one command of it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from docker import APIClient
from docker.errors import APIError

from faaspot_runner.docker.engine import Engine, Owner
from tests.platforms import ROOT

IMAGE = os.environ.get("FAASPOT_TEST_DOCKER_IMAGE", "faaspot-test-base")
"""An image with a CPython 3.11 and not much more; `.ci/docker` makes it."""
PLATFORM = f"test-{os.getpid()}"
NAME = f"faaspot-{PLATFORM}"
"""Of what a run of the tests makes by commands: the prefix of every image, container, network and volume."""


@cache
def why_not() -> str:
    """Why there can be no tests with containers here; empty where there can."""
    if os.geteuid() != 0:
        return "tests with containers need root"
    try:  # by a command: docker-py leaves its socket open where nothing listens, which is a warning
        found = docker("image", "inspect", IMAGE, check=False, seconds=10)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"no Docker engine ({error}); .ci/docker makes one"
    if found.returncode:
        return f"no Docker engine with the image {IMAGE} (.ci/docker makes both): {found.stderr.strip()}"
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
    api = APIClient(timeout=30)
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
    api = APIClient(timeout=30)
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


def docker(*arguments: str, check: bool = True, seconds: float = 120) -> subprocess.CompletedProcess[str]:
    """One command of the engine; with `check` an AssertionError with its words if it fails."""
    done = subprocess.run(
        ["docker", *arguments], capture_output=True, text=True, check=False, cwd=ROOT, timeout=seconds
    )
    assert not check or done.returncode == 0, f"docker {' '.join(arguments)}\n{done.stdout}\n{done.stderr}"
    return done


@contextlib.contextmanager
def network() -> Iterator[tuple[str, str]]:
    """A network of its own, and the address of this machine in it."""
    name = f"{NAME}-net"
    docker("network", "create", name)
    try:
        yield name, gateway(name)
    finally:
        docker("network", "rm", name)


def gateway(network: str) -> str:
    """The address under which the containers of a network reach this machine."""
    found: str = json.loads(docker("network", "inspect", network).stdout)[0]["IPAM"]["Config"][0]["Gateway"]
    return found


def inspect(container: str) -> dict[str, Any]:
    """What the engine knows of a container."""
    found: dict[str, Any] = json.loads(docker("container", "inspect", container).stdout)[0]
    return found


def port(container: str) -> int:
    """Where its port 8000 is published on this machine."""
    return int(docker("port", container, "8000").stdout.splitlines()[0].rpartition(":")[2])
