"""The platform's image, and whole platforms made of it, on a real container engine.

`FAASPOT_TEST_DOCKER_IMAGE` names the image that ours is built from: a Debian with Python 3.11 or newer and its venv
(default `faaspot-test-base`). No registry is asked for anything.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from tests.platforms import ROOT

BASE = os.environ.get("FAASPOT_TEST_DOCKER_IMAGE", "faaspot-test-base")
NAME = f"faaspot-test-{os.getpid()}"
"""Of all that a run of the tests makes: the prefix of every image, container, network and volume."""
CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
BUILD_SETTINGS = ("PIP_INDEX_URL", "UV_DEFAULT_INDEX")

SERVERS = """\
FROM {base}
RUN apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends \
        postgresql redis-server >/dev/null \
 && install -d -o redis /data && install -d -o postgres /var/lib/postgresql/data
COPY postgres /usr/local/bin/
ENV PGDATA=/var/lib/postgresql/data
CMD ["postgres"]
"""
POSTGRES = """\
#!/bin/sh
# As far as compose.yaml uses it, what the entrypoint of the official image does.
set -e
[ "$(id -u)" != 0 ] || exec setpriv --reuid=postgres --regid=postgres --clear-groups "$0"
PATH=$(echo /usr/lib/postgresql/*/bin):$PATH
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    initdb --username="$POSTGRES_USER" --pwfile="$POSTGRES_PASSWORD_FILE" --auth=scram-sha-256 \\
        --encoding=UTF8 --locale=C.UTF-8 >/dev/null
    echo "host all all all scram-sha-256" >> "$PGDATA/pg_hba.conf"
    echo "CREATE DATABASE $POSTGRES_DB" | command postgres --single -D "$PGDATA" postgres >/dev/null
fi
exec $(echo /usr/lib/postgresql/*/bin/postgres) -c listen_addresses='*' -c unix_socket_directories=/tmp
"""


def docker(*arguments: str, check: bool = True, seconds: float = 120) -> subprocess.CompletedProcess[str]:
    """One command of the engine; with `check` an AssertionError with its words if it fails."""
    done = subprocess.run(
        ["docker", *arguments], capture_output=True, text=True, check=False, cwd=ROOT, timeout=seconds
    )
    assert not check or done.returncode == 0, f"docker {' '.join(arguments)}\n{done.stdout}\n{done.stderr}"
    return done


@cache
def why_not() -> str:
    """Why there can be no containers here; empty where there can."""
    try:
        done = docker("image", "inspect", BASE, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"no container engine: {error}"
    return "" if done.returncode == 0 else f"no container engine with an image {BASE}: {done.stderr.strip()}"


@contextlib.contextmanager
def platform_image() -> Iterator[str]:
    """The platform's image, built from `BASE` with the certificates of this machine in it."""
    base, stage, image = f"{NAME}-base", f"{NAME}-build", NAME
    try:
        _build(base, f"FROM {BASE}\n" + (f"COPY bundle {CERTIFICATES}\n" if Path(CERTIFICATES).exists() else ""))
        arguments = ["--network", "host", "--build-arg", f"BASE={base}"]
        for name in BUILD_SETTINGS:
            arguments += ["--build-arg", name] if name in os.environ else []
        for name in ("PIP_CERT", "SSL_CERT_FILE"):
            arguments += ["--build-arg", f"{name}={CERTIFICATES}"] if Path(CERTIFICATES).exists() else []
        # The first stage by name, too: so it can be taken away again.
        docker("build", *arguments, "--target", "build", "--tag", stage, ".", seconds=300)
        docker("build", *arguments, "--tag", image, ".", seconds=300)
        yield image
    finally:
        docker("image", "rm", "--force", image, stage, base, check=False)


@contextlib.contextmanager
def servers_image() -> Iterator[str]:
    """An image with a Redis and a PostgreSQL, in place of the official ones, which no registry is there to give."""
    image = f"{NAME}-servers"
    try:
        _build(image, SERVERS.format(base=BASE), "--network", "host")
        yield image
    finally:
        docker("image", "rm", "--force", image, check=False)


def _build(image: str, text: str, *options: str) -> None:
    with tempfile.TemporaryDirectory() as directory:
        (Path(directory) / "Dockerfile").write_text(text)
        (Path(directory) / "postgres").write_text(POSTGRES)
        (Path(directory) / "postgres").chmod(0o755)
        if Path(CERTIFICATES).exists():
            (Path(directory) / "bundle").write_bytes(Path(CERTIFICATES).read_bytes())
        docker("build", *options, "--tag", image, directory, seconds=300)


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
