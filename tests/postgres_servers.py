"""A real, private PostgreSQL for tests: an ordinary uid, a unix socket, gone afterwards."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NOBODY = 65534
"""PostgreSQL refuses to run as root; root starts it as this uid."""


def _binaries() -> Path | None:
    on_path = shutil.which("initdb")
    if on_path:
        return Path(on_path).resolve().parent
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return found[-1].parent if found else None


BINARIES = _binaries()
MISSING = "PostgreSQL's initdb is neither on PATH nor under /usr/lib/postgresql"


class PostgresServer:
    """A running server; `restart` breaks every connection and keeps the data."""

    def __init__(self, home: Path, settings: str) -> None:
        self._home = home
        self._settings = settings
        self._run("initdb", "-D", str(home / "data"), "-U", "faaspot", "-A", "trust", "--no-sync", "-E", "UTF8")
        self.start()

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://faaspot@/{database}?host={self._home}"

    def start(self) -> None:
        options = f"-k {self._home} -c listen_addresses= {self._settings} -c max_connections=200"
        self._ctl("start", "-o", options, "-l", str(self._home / "log"))

    def stop(self) -> None:
        self._ctl("stop", "-m", "immediate")

    def restart(self) -> None:
        self.stop()
        self.start()

    def create(self, database: str) -> str:
        """A fresh database; its URL."""
        self._run("createdb", "-h", str(self._home), "-U", "faaspot", database)
        return self.url(database)

    def _ctl(self, *arguments: str) -> None:
        self._run("pg_ctl", "-D", str(self._home / "data"), "-w", *arguments)

    def _run(self, program: str, *arguments: str) -> None:
        assert BINARIES is not None
        who: dict[str, Any] = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.getuid() == 0 else {}
        subprocess.run(
            [str(BINARIES / program), *arguments],
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=self._home,
            env={"PATH": os.defpath, "HOME": str(self._home), "LC_ALL": "C.UTF-8"},
            **who,
        )


@contextlib.contextmanager
def running_postgres(settings: str = "-c fsync=off") -> Iterator[PostgresServer]:
    """A server in a directory of its own, with these settings of its command line."""
    home = Path(tempfile.mkdtemp(prefix="faaspot-tests-pg-", dir="/tmp"))  # short: a socket's path is bounded
    if os.getuid() == 0:
        os.chown(home, NOBODY, NOBODY)
        home.chmod(0o755)  # the platform's services come to its socket as an uid of theirs
    try:
        server = PostgresServer(home, settings)
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(home)
