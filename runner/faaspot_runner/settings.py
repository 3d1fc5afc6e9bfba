"""Every setting of a spot and its workers in one table: name, type, default, help.

The fields of `Settings` are that table; it feeds the command line (`--data-dir`), the environment
(`FAASPOT_SPOT_DATA_DIR`) and the tests. What was said nearest wins: argument, environment, default. The runner's sole
reader of `os.environ`. The Redis password is never an argument: it comes by `FAASPOT_REDIS_PASSWORD`, from the file
that `FAASPOT_REDIS_PASSWORD_FILE` names, or from `keys/redis-password` in the data directory.
"""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from ipaddress import ip_address
from pathlib import Path
from typing import Any, get_type_hints

from faaspot_runner.contract import QUEUE_BUILDS, QUEUES
from faaspot_runner.contract.bucket import KEY_ID_VARIABLE, SECRET_VARIABLE, BucketAddress

PREFIX = "FAASPOT_SPOT_"
DOCKER_IMAGE = "python:{python}-slim"
PASSWORD_VARIABLE = "FAASPOT_REDIS_PASSWORD"  # noqa: S105 (the name of the variable, not a password)

SENTINEL_VARIABLE = "FAASPOT_REDIS_SENTINEL_PASSWORD"
PASSWORD_FILE_VARIABLE = f"{PASSWORD_VARIABLE}_FILE"


class SettingError(ValueError):
    """A setting that cannot be taken; the text names it and says what it takes."""


def _row(help: str, **bounds: float) -> dict[str, Any]:  # noqa: A002 (argparse's word)
    return {"help": help, **bounds}


def workers(text: str) -> dict[str, int]:
    """Worker processes by queue from `sync=2,background=2,builds=1`. Raises ValueError."""
    counts: dict[str, int] = {}
    for part in filter(None, text.split(",")):
        queue, _, count = part.partition("=")
        if queue not in QUEUES:
            raise ValueError(f"{queue!r} is not one of the queues {', '.join(QUEUES)}")
        if not count.isdecimal() or int(count) > 64:
            raise ValueError(f"{part!r} does not say how many workers, 0 to 64")
        counts[queue] = int(count)
    return counts


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What one spot runs with. Times in seconds."""

    ip: str = field(default="127.0.0.1", metadata=_row("Address of this spot, its name in the API."))
    data_dir: Path = field(
        default=Path("~/.local/share/faaspot"), metadata=_row("Directory that the platform keeps everything in.")
    )
    blobs: str = field(
        default="", metadata=_row("Directory of the blobs, which the API writes; without: blobs in --data-dir.")
    )
    api: str = field(
        default="",
        metadata=_row("URL of the API, for a spot on another host: it has blobs from there, and brings them there."),
    )
    api_ca: str = field(default="", metadata=_row("PEM file of who vouches for its certificate; the machine's own."))
    bucket: str = field(default="", metadata=_row("s3://BUCKET/PREFIX where the API keeps them, if it is there."))
    bucket_endpoint: str = field(default="", metadata=_row("URL of that bucket's store, if it is not AWS' own."))
    bucket_region: str = field(default="", metadata=_row("Its region; us-east-1."))
    redis_url: str = field(
        default="redis://127.0.0.1:6379/0",
        metadata=_row(
            "Redis, without its password: unix:///path, redis[s]://host, redis[s]+sentinel://host,host/service."
        ),
    )
    workers: str = field(
        default="sync=2,background=2,builds=1",
        metadata=_row("Worker processes by queue: sync=2,background=2,builds=1."),
    )
    runtime: str = field(default="sandbox", metadata=_row("Runtime that every function is started in."))
    allow_process: bool = field(
        default=False, metadata=_row("Offer the runtime `process`, which isolates nothing: for development only.")
    )
    threads: int = field(
        default=32, metadata=_row("Runs in flight at once in each sync and background worker.", least=1, most=1024)
    )
    build_threads: int = field(default=2, metadata=_row("Builds at once in each build worker.", least=1, most=64))
    resolution_age: float = field(
        default=600.0,
        metadata=_row("For how long the same requirements are not resolved anew; 0 asks the index each time.", least=0),
    )
    grace: float = field(default=30.0, metadata=_row("How long a stopping spot waits for what runs.", least=0))
    cold_start_timeout: float = field(
        default=60.0,
        metadata=_row("How long a function's import may take before its run ends with `timeout`.", least=1),
    )
    sandbox_idle: float = field(
        default=600.0, metadata=_row("After how long without a run a sandbox is taken down.", least=1)
    )
    sandboxes: int = field(
        default=200, metadata=_row("How many sandboxes are kept warm; beyond it the least used goes.", least=1)
    )
    blanks: int = field(
        default=8,
        metadata=_row("For so many kinds of functions sandboxes stand ready ahead; 0: none.", least=0),
    )
    shared_start: bool = field(
        default=True,
        metadata=_row("Fork functions' interpreters from one that has started (yes), or start each by itself (no)."),
    )
    download_uid: int = field(
        default=64_719, metadata=_row("Uid that downloads and unpacks packages, if the spot is root.", least=1)
    )
    docker: bool = field(
        default=True, metadata=_row("Offer the runtime `docker` where a Docker engine answers: yes or no.")
    )
    docker_host: str = field(
        default="", metadata=_row("Socket of the Docker engine (unix://PATH); DOCKER_HOST or its usual one.")
    )
    docker_image: str = field(
        default=DOCKER_IMAGE,
        metadata=_row("Base image of the runtime `docker`; {python} stands for the function's version."),
    )
    oci_runtime: str = field(default="", metadata=_row("OCI runtime of the runtime `docker`; the engine's default."))
    failpoints: str = field(
        default="",
        metadata=_row("Directory of the platform's own fault tests: who comes to a point that is a file in it dies."),
    )
    parent_pid: int = field(
        default=0, metadata=_row("Process id of the supervisor: the spot dies with it. 0 for none.", least=0)
    )
    log_level: str = field(default="warning", metadata=_row("debug, info, warning or error."))

    @property
    def worker_counts(self) -> dict[str, int]:
        return workers(self.workers)

    @property
    def most_runs(self) -> int:
        """How many runs can be in flight at once on this spot."""
        return self.threads * sum(count for queue, count in self.worker_counts.items() if queue != QUEUE_BUILDS)

    @property
    def blob_directory(self) -> Path:
        """Where the API's blobs are, or our copies of those that we have from elsewhere."""
        if self.bucket:
            return self.data_dir / "cache" / "blobs"
        return Path(self.blobs).expanduser().absolute() if self.blobs else self.data_dir / "blobs"

    def bucket_address(self, environ: Mapping[str, str] | None = None) -> BucketAddress:
        """Where the bucket is; who asks comes from the environment. Raises OSError."""
        environ = os.environ if environ is None else environ
        named = environ.get(f"{SECRET_VARIABLE}_FILE")
        return BucketAddress(
            url=self.bucket,
            endpoint=self.bucket_endpoint,
            region=self.bucket_region,
            key_id=environ.get(KEY_ID_VARIABLE, ""),
            secret=environ.get(SECRET_VARIABLE) or (Path(named).read_text().strip() if named else ""),
        )

    @property
    def token_file(self) -> Path:
        """Where a spot on another host keeps its token for the API."""
        return self.data_dir / "keys" / "spot-token"

    @property
    def home(self) -> Path:
        """The spot's own directory, emptied at its start."""
        return self.data_dir / "spots" / self.ip

    def sentinel_password(self, environ: Mapping[str, str] | None = None) -> str | None:
        """That of the Sentinels themselves: from the environment, else from the file that it names, else None."""
        environ = os.environ if environ is None else environ
        named = environ.get(f"{SENTINEL_VARIABLE}_FILE")
        return environ.get(SENTINEL_VARIABLE) or (Path(named).read_text().strip() if named else None)

    def redis_password(self, environ: Mapping[str, str] | None = None) -> str | None:
        """From the environment, else from the file that it names or the one in the data directory, else None.

        Read anew each time: the file may be written later.
        """
        environ = os.environ if environ is None else environ
        if said := environ.get(PASSWORD_VARIABLE):
            return said
        named = environ.get(PASSWORD_FILE_VARIABLE)
        path = Path(named) if named else self.data_dir / "keys" / "redis-password"
        return path.read_text().strip() if named or path.exists() else None


def environment() -> dict[str, str]:
    """The platform's environment, for what it finds programs, indexes and proxies by."""
    return dict(os.environ)


def read(argv: Sequence[str], environ: Mapping[str, str] | None = None) -> Settings:
    """The settings from arguments and environment.

    Raises SettingError for a value that cannot be taken; argparse leaves with status 2 for an unknown argument.
    """
    environ = os.environ if environ is None else environ
    parser = argparse.ArgumentParser(prog="python -m faaspot_runner spot", allow_abbrev=False)
    kinds = get_type_hints(Settings)
    for row in fields(Settings):
        flag = "--" + row.name.replace("_", "-")
        if kinds[row.name] is bool:
            parser.add_argument(flag, action="store_const", const="yes", help=row.metadata["help"])
        else:
            parser.add_argument(flag, help=f"{row.metadata['help']} Default: {row.default}.")
    said = vars(parser.parse_args(argv))
    values: dict[str, Any] = {}
    for row in fields(Settings):
        text = said[row.name] if said[row.name] is not None else environ.get(PREFIX + row.name.upper())
        if text is not None:
            values[row.name] = _value(row.name, kinds[row.name], text, row.metadata)
    return _checked(Settings(**values))


def _value(name: str, kind: type, text: str, bounds: Mapping[str, Any]) -> Any:
    flag = "--" + name.replace("_", "-")
    if kind is bool:
        if text.lower() not in ("1", "0", "yes", "no", "true", "false", "on", "off", ""):
            raise SettingError(f"{flag}: {text!r} is not yes or no")
        return text.lower() in ("1", "yes", "true", "on")
    try:
        value = kind(text)
    except ValueError:
        raise SettingError(f"{flag}: {text!r} is not a number") from None
    if isinstance(value, float) and not math.isfinite(value):
        raise SettingError(f"{flag}: {text!r} is not a number of seconds")
    if "least" in bounds and value < bounds["least"]:
        raise SettingError(f"{flag}: {text} is too small, the least is {bounds['least']:g}")
    if "most" in bounds and value > bounds["most"]:
        raise SettingError(f"{flag}: {text} is too large, the most is {bounds['most']:g}")
    return value


def _checked(settings: Settings) -> Settings:
    """The settings, paths made absolute. Raises SettingError for what no bound can say."""
    try:
        workers(settings.workers)
    except ValueError as error:
        raise SettingError(f"--workers: {error}") from None
    try:
        # The address names a directory: nothing but an address may come through.
        ip_address(settings.ip)
    except ValueError:
        raise SettingError(f"--ip: {settings.ip!r} is not an IP address") from None
    if settings.runtime == "process" and not settings.allow_process:
        raise SettingError(
            "--runtime process isolates nothing: say --allow-process too if this is a development machine"
        )
    values = {row.name: getattr(settings, row.name) for row in fields(Settings)}
    return Settings(**{**values, "data_dir": settings.data_dir.expanduser().absolute()})
