"""The reference of the server's settings, `docs/server.md`, made from the tables: ``python docs/make_server.py``."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from typing import Any

from faaspot_api.settings import Settings
from faaspot_runner import settings as spot

HEAD = """\
# Settings of the server

Made by `python docs/make_server.py` from the tables in the code (`settings.py` of `api/faaspot_api` and of
`runner/faaspot_runner`); a test keeps it current. What was said nearest wins: option, environment variable, default.
Times are in seconds.

`fas up` takes the most common as options (`fas up -h`) and all of them as variables: `FAASPOT_GRACE=5 fas up`.
`python -m faaspot_api up | prepare | gunicorn | recorder | migrate | health` take each as an option, too (`--grace 5`);
those marked *secret* better come as a variable, for every user of a machine can read command lines, or by a file whose
name is in the variable with `_FILE` after its own.

**Stopping.** At Ctrl-C or SIGTERM nothing new is taken, and runs in flight have until `grace` is over; `fas up` says
for how many it waits. A second signal, more than a second after the first, stops at once, and so does the death of
`fas up` itself. A background run that this cuts off is started again some seconds after the next start. While a
platform stops, another start on its data directory waits a few seconds for it, then says that it is stopping.

**Who can reach it.** It listens on 127.0.0.1. Elsewhere give `--certfile` and `--keyfile`, or put a proxy with TLS in
front and say `FAASPOT_TRUSTED_PROXIES=1`: over plain HTTP whoever is on the way reads tokens and contexts.
`FAASPOT_TOKEN` is also what `fas` and the Python library take for *their* token: set it for `fas up` alone.

**PostgreSQL and Redis.** In a clone, `.venv/bin/pip install -e '.[postgres]'`, then
`fas up --database-url postgresql://USER:PASSWORD@HOST/NAME --redis-url rediss://:PASSWORD@HOST:6379/0`.
A certificate of your own authority: `rediss://...?ssl_ca_certs=/path/ca.pem`. Behind Sentinels:
`redis+sentinel://:PASSWORD@HOST1:26379,HOST2:26379/SERVICE/0` (`rediss+sentinel` for TLS to all of them,
`FAASPOT_REDIS_SENTINEL_PASSWORD` for their own password); after a failover connections find the new master.
PostgreSQL over TLS: `postgresql://...?sslmode=verify-full&sslrootcert=/path/ca.pem`.

**Blobs in a bucket** (the extra `s3`, `pip install 'faaspot[s3]'`). `FAASPOT_BLOBS=s3://BUCKET/PREFIX` keeps code,
sealed contexts and large values in S3 or what speaks it (`FAASPOT_BUCKET_ENDPOINT=https://HOST:9000`); the bucket
must be there. The key may read, write, list and delete below the prefix, **which belongs to this platform alone**: it
tidies away there what its own records do not refer to, and a start refuses one that is another's. To move a platform
there, stop it, copy what is in its `blobs/` under the same names (`aws s3 sync`, `rclone copy`), and move that
directory away. A spot started alone beside the API takes `FAASPOT_SPOT_BUCKET`, `FAASPOT_BUCKET_KEY_ID` and
`FAASPOT_BUCKET_SECRET` (or `_FILE`); one on another host needs none of it: it has blobs from the API. Have the store
end multipart uploads that were never finished (a lifecycle rule), for those of a process that was killed.
"""
PLATFORM = """
## The platform

| variable | default | |
|---|---|---|
"""
SPOT = """
## A spot

What `python -m faaspot_runner spot` takes. `fas up` starts one for each local spot and says address, data directory,
Redis, workers and grace itself; the rest comes from these variables. `FAASPOT_REDIS_PASSWORD` is Redis' password.

| variable | default | |
|---|---|---|
"""


def text() -> str:
    """The whole page, as Markdown."""
    return HEAD + PLATFORM + "".join(_platform_rows()) + SPOT + "".join(_spot_rows())


def _platform_rows() -> Iterator[str]:
    for option in Settings.options():
        notes = [f"one of {', '.join(option.choices)}"] if option.choices else []
        notes += ["*secret*"] if option.secret else []
        yield _row(option.variable, option.default, option.help, notes + _bounds(option.least, option.most))


def _spot_rows() -> Iterator[str]:
    for row in dataclasses.fields(spot.Settings):
        bounds = _bounds(row.metadata.get("least"), row.metadata.get("most"))
        yield _row(spot.PREFIX + row.name.upper(), row.default, row.metadata["help"], bounds)


def _bounds(least: float | None, most: float | None) -> list[str]:
    if least is not None and most is not None:
        return [f"{least:.10g} to {most:.10g}"]
    return [f"at least {least:.10g}"] if least is not None else [f"at most {most:.10g}"] if most is not None else []


def _row(variable: str, default: Any, meaning: str, notes: list[str]) -> str:
    note = f" ({'; '.join(notes)})" if notes else ""
    return f"| `{variable}` | {_shown(default)} | {meaning}{note} |\n"


def _shown(default: Any) -> str:
    if isinstance(default, bool):
        return "`yes`" if default else "`no`"
    return f"`{default:.10g}`" if isinstance(default, float) else f"`{default}`" if default != "" else ""


if __name__ == "__main__":
    sys.stdout.write(text())
