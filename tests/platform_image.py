"""The platform's image, and one of the servers that it needs in parts, built on the Docker engine of the tests.

No registry is asked for anything: both are made from the tests' own base image.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.docker_engine import IMAGE, NAME, docker

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


@contextlib.contextmanager
def platform_image() -> Iterator[str]:
    """The platform's image, built from the tests' base image with the certificates of this machine in it."""
    base, stage, image = f"{NAME}-base", f"{NAME}-build", NAME
    try:
        _build(base, f"FROM {IMAGE}\n" + (f"COPY bundle {CERTIFICATES}\n" if Path(CERTIFICATES).exists() else ""))
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
        _build(image, SERVERS.format(base=IMAGE), "--network", "host")
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
