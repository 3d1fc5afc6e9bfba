"""Every setting of the control plane in one table: name, type, default, help.

The fields of `Settings` are that table. It feeds the command line (`--data-dir`), the environment
(`FAASPOT_DATA_DIR`), the documentation and the tests. What was said nearest wins: argument, environment, default.

This module alone reads `os.environ`. A child process gets its settings by environment (`Settings.environment`), so
that no secret stands in an argument list.
"""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Any, get_type_hints
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from faaspot_runner.contract.bucket import BucketAddress
from faaspot_runner.contract.sentinels import sentinels

PREFIX = "FAASPOT_"
_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off", ""})


class SettingError(ValueError):
    """A setting that cannot be taken; the text names it and says what it takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One row of the table. `kind`: the Python type of its values; `secret`: never shown, never an argument."""

    name: str
    kind: type
    default: Any
    help: str
    choices: tuple[str, ...] = ()
    least: float | None = None
    most: float | None = None
    secret: bool = False

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def variables(self) -> tuple[str, ...]:
        """Every variable that says it."""
        return (self.variable, self.file_variable) if self.secret else (self.variable,)

    @property
    def variable(self) -> str:
        return PREFIX + self.name.upper()

    @property
    def file_variable(self) -> str:
        """Of a secret: the variable that names a file with its text."""
        return f"{self.variable}_FILE"

    def parse(self, text: str) -> Any:
        """The value of `text`. Raises SettingError."""
        if self.kind is bool:
            return self._flag(text)
        try:
            value = self.kind(text)
        except ValueError:
            raise SettingError(f"{self.flag}: {text!r} is not {_NOUNS[self.kind]}") from None
        return self.check(value)

    def check(self, value: Any) -> Any:
        """The value itself if it is within bounds. Raises SettingError."""
        if isinstance(value, float) and not math.isfinite(value):
            raise SettingError(f"{self.flag}: {value} is not a number of seconds")
        if self.choices and value not in self.choices:
            raise SettingError(f"{self.flag}: {value!r} is not one of {', '.join(self.choices)}")
        if self.least is not None and value < self.least:
            raise SettingError(f"{self.flag}: {value} is too small, the least is {self.least:g}")
        if self.most is not None and value > self.most:
            raise SettingError(f"{self.flag}: {value} is too large, the most is {self.most:g}")
        return value

    def _flag(self, text: str) -> bool:
        if text.lower() in _TRUE:
            return True
        if text.lower() in _FALSE:
            return False
        raise SettingError(f"{self.flag}: {text!r} is not yes or no")


_NOUNS: dict[type, str] = {int: "a whole number", float: "a number", Path: "a path", str: "text"}


def _row(help: str, **more: Any) -> dict[str, Any]:  # noqa: A002
    return {"help": help, **more}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the control plane runs with. Times in seconds."""

    data_dir: Path = field(
        default=Path("~/.local/share/faaspot"), metadata=_row("Directory that holds everything the platform keeps.")
    )
    host: str = field(default="127.0.0.1", metadata=_row("Address to listen on."))
    port: int = field(default=8000, metadata=_row("Port to listen on; 0 takes a free one.", least=0, most=65535))
    workers: int = field(
        default=2,
        metadata=_row(
            "Worker processes of each local spot for sync runs, and as many for background runs.", least=1, most=64
        ),
    )
    build_workers: int = field(
        default=1, metadata=_row("Worker processes of each local spot for builds.", least=1, most=64)
    )
    web_processes: int = field(default=2, metadata=_row("Processes that answer HTTP.", least=1, most=64))
    web_threads: int = field(
        default=256, metadata=_row("Threads of each of them; a waiting caller holds one.", least=1, most=1024)
    )
    max_waiting: int = field(
        default=192,
        metadata=_row(
            "Callers of each of them that may wait at once, for a result or a log; never over 3/4 of its threads.",
            least=1,
            most=768,
        ),
    )
    max_waiting_per_token: int = field(
        default=128, metadata=_row("How many of those may have the same token.", least=1, most=768)
    )
    token: str = field(
        default="",
        metadata=_row("Text of the admin token (default: one is made and kept in the data directory).", secret=True),
    )
    certfile: str = field(default="", metadata=_row("PEM file with the TLS certificate chain; serves https."))
    keyfile: str = field(default="", metadata=_row("PEM file with the certificate's private key."))
    database_url: str = field(
        default="",
        metadata=_row("SQLAlchemy URL of the database (default: SQLite in the data directory).", secret=True),
    )
    database_password: str = field(
        default="", metadata=_row("Password of that database (default: the URL's own).", secret=True)
    )
    database_sync: str = field(
        default="NORMAL",
        metadata=_row(
            "SQLite's `synchronous`: FULL also survives a power cut, and costs a sync to disk for each commit.",
            choices=("NORMAL", "FULL"),
        ),
    )
    blobs: str = field(
        default="",
        metadata=_row("s3://BUCKET/PREFIX, of this platform alone, for code and large values (default: a directory)."),
    )
    bucket_endpoint: str = field(default="", metadata=_row("URL of that bucket's store, if it is not AWS' own."))
    bucket_region: str = field(default="", metadata=_row("Its region (default: us-east-1)."))
    bucket_key_id: str = field(
        default="", metadata=_row("Id of the access key to it (default: what the machine's role gives).")
    )
    bucket_secret: str = field(default="", metadata=_row("The secret of that access key.", secret=True))
    redis_url: str = field(
        default="",
        metadata=_row(
            "URL of a Redis: redis[s]://, redis[s]+sentinel:// or unix:// (default: a private one is started).",
            secret=True,
        ),
    )
    redis_socket: str = field(
        default="", metadata=_row("Socket of the private Redis (default: redis/redis.sock in the data directory).")
    )
    redis_password: str = field(
        default="", metadata=_row("Password of that Redis (default: the URL's, else keys/redis-password).", secret=True)
    )
    redis_sentinel_password: str = field(
        default="", metadata=_row("Password of the Sentinels themselves, behind redis+sentinel://.", secret=True)
    )
    spots_listen: str = field(
        default="",
        metadata=_row(
            "HOST:PORT where spots on other hosts reach the private Redis, over TLS (default: there can be none)."
        ),
    )
    spots_redis_url: str = field(
        default="",
        metadata=_row("URL, without a password, by which they reach the Redis of --redis-url (default: that one)."),
    )
    redis_fsync: str = field(
        default="everysec",
        metadata=_row("When the private Redis syncs its log to the disk.", choices=("always", "everysec", "no")),
    )
    redis_memory: int = field(
        default=0,
        metadata=_row("MB that the private Redis may hold (default: a quarter of the machine's memory).", least=0),
    )
    allow_process_runtime: bool = field(
        default=False, metadata=_row("Offer the runtime `process`, which isolates nothing (development only).")
    )
    grace: float = field(
        default=30.0, metadata=_row("Longest wait for runs in flight when the platform stops.", least=0, most=3600)
    )
    service_uid: int = field(
        default=61990,
        metadata=_row("Uid of Redis, web and recorder when started as root and no user `faaspot` exists.", least=1),
    )
    local_spots: int = field(default=1, metadata=_row("Local spots of a new data directory.", least=0, most=254))
    log_level: str = field(
        default="warning", metadata=_row("What the log shows.", choices=("debug", "info", "warning", "error"))
    )
    access_log: bool = field(default=False, metadata=_row("Log every HTTP request."))
    metrics: str = field(
        default="token",
        metadata=_row(
            "Who reads /metrics: a token of role admin or monitor, everybody, nobody.",
            choices=("token", "open", "off"),
        ),
    )
    otel: bool = field(
        default=False,
        metadata=_row("Send executions as spans by OpenTelemetry (extra `otel`; its own OTEL_* variables say where)."),
    )
    trusted_proxies: int = field(
        default=0, metadata=_row("Reverse proxies in front whose X-Forwarded-* headers are believed.", least=0, most=10)
    )
    max_sync_timeout: float = field(
        default=900.0, metadata=_row("Longest timeout of a deployment that a sync call accepts.", least=1)
    )
    max_timeout: float = field(default=86400.0, metadata=_row("Longest timeout of a deployment.", least=1))
    max_pending: int = field(
        default=100_000, metadata=_row("Runs of one token that may wait at once; more get 429.", least=1)
    )
    max_archives: int = field(
        default=20_480,
        metadata=_row(
            "MB of packed environments and large outputs that one spot on another host may have brought.", least=0
        ),
    )
    max_age: float = field(default=86400.0, metadata=_row("How long a background run may wait for a spot.", least=1))
    keep_days: float = field(
        default=30.0,
        metadata=_row("Days that records of ended runs are kept, where their deployment does not say.", least=0.05),
    )
    max_attempts: int = field(
        default=3, metadata=_row("Starts of one run at most, when spots or workers are lost.", least=1, most=100)
    )
    callback_networks: str = field(
        default="",
        metadata=_row(
            "Inner networks that callbacks may reach all the same, such as 10.1.0.0/16, separated by commas."
        ),
    )
    failpoints: str = field(
        default="",
        metadata=_row("Directory of the platform's own fault tests: who comes to a point that is a file in it dies."),
    )
    reconcile_seconds: float = field(
        default=2.0, metadata=_row("Pause between two passes of the reconciler.", least=0.05)
    )

    @classmethod
    def options(cls) -> tuple[Option, ...]:
        """The table, in the order of the fields."""
        hints = get_type_hints(cls)
        return tuple(
            Option(name=row.name, kind=hints[row.name], default=row.default, **row.metadata) for row in fields(cls)
        )

    @classmethod
    def load(cls, arguments: Mapping[str, Any] | None = None, environ: Mapping[str, str] | None = None) -> Settings:
        """Settings from `arguments` (parsed values; None: not said) over the environment over the defaults.

        Raises SettingError for a value that is not of its type or out of bounds, and for an unknown argument.
        """
        environ = os.environ if environ is None else environ
        said = {name: value for name, value in (arguments or {}).items() if value is not None}
        values = {option.name: _value(option, said, environ) for option in cls.options()}
        unknown = said.keys() - values.keys()
        if unknown:
            raise SettingError(f"unknown setting: {', '.join(sorted(unknown))}")
        values["data_dir"] = Path(os.path.abspath(Path(values["data_dir"]).expanduser()))
        settings = cls(**values)
        _ = settings.open_networks  # what is wrong with them is said at the start
        if settings.bucket is not None and (problem := settings.bucket.problem()):
            raise SettingError(f"--blobs: {problem}")
        return settings

    def environment(self, *, leave_out: Iterable[str] = ()) -> dict[str, str]:
        """The variables by which a child process loads equal settings; defaults are left out."""
        return {
            option.variable: _text(getattr(self, option.name))
            for option in self.options()
            if option.name not in leave_out and getattr(self, option.name) != option.default
        }

    @property
    def database(self) -> str:
        """The database's URL: what was said, with its password, else SQLite in the data directory."""
        if self.database_url and self.database_password:
            return _with_password(self.database_url, self.database_password)
        return self.database_url or f"sqlite:///{self.data_dir / 'db' / 'faaspot.db'}"

    @property
    def bucket(self) -> BucketAddress | None:
        """Where blobs are that are not in the data directory."""
        if not self.blobs:
            return None
        return BucketAddress(
            url=self.blobs,
            endpoint=self.bucket_endpoint,
            region=self.bucket_region,
            key_id=self.bucket_key_id,
            secret=self.bucket_secret,
        )

    @property
    def redis(self) -> str:
        """The URL of Redis without its password: what was said, else the private one's socket."""
        if self.redis_url:
            return _without_password(self.redis_url)
        return f"unix://{quote(self.redis_socket or str(self.data_dir / 'redis' / 'redis.sock'))}"

    @property
    def open_networks(self) -> tuple[IPv4Network | IPv6Network, ...]:
        """The `callback_networks`. Raises SettingError."""
        try:
            return tuple(ip_network(each.strip()) for each in self.callback_networks.split(",") if each.strip())
        except ValueError as error:
            raise SettingError(f"--callback-networks: {error}") from None

    @property
    def platform_hosts(self) -> tuple[str, ...]:
        """The hosts of database, Redis and Sentinels, as far as they are reached by network."""
        known = sentinels(self.redis_url)
        urls = (self.database_url, self.redis_url if known is None else "")
        hosts = [urlsplit(url).hostname for url in urls if "://" in url]
        hosts += [host for host, _ in known.hosts] if known else []
        return tuple(host for host in hosts if host)

    @property
    def own_redis(self) -> bool:
        """Whether the platform runs its private Redis."""
        return not self.redis_url

    def redis_secret(self) -> str | None:
        """Redis' password: the setting, the URL's own, for the private one that in the keys; None without any."""
        if self.redis_password:
            return self.redis_password
        if not self.own_redis:
            password = urlsplit(self.redis_url).password
            return unquote(password) if password else None
        kept = self.data_dir / "keys" / "redis-password"
        return kept.read_text().strip() if kept.exists() else None


def add_arguments(parser: argparse.ArgumentParser, names: Iterable[str] | None = None) -> None:
    """Give `parser` a flag for each option of the table, or for those of `names`."""
    for option in Settings.options():
        if names is not None and option.name not in names:
            continue
        if option.kind is bool:
            parser.add_argument(option.flag, action=argparse.BooleanOptionalAction, default=None, help=option.help)
        else:
            parser.add_argument(option.flag, dest=option.name, metavar=option.kind.__name__.upper(), help=option.help)


def from_arguments(namespace: argparse.Namespace) -> Settings:
    """Settings from what `add_arguments` parsed. Raises SettingError."""
    options = {option.name: option for option in Settings.options()}
    said = {name: value for name, value in vars(namespace).items() if name in options and value is not None}
    parsed = {name: options[name].parse(value) if isinstance(value, str) else value for name, value in said.items()}
    return Settings.load(parsed)


def inherited() -> dict[str, str]:
    """This process's environment for a child, without our own settings; those come by `Settings.environment`."""
    own = {variable for option in Settings.options() for variable in option.variables}
    return {name: value for name, value in os.environ.items() if name not in own}


def _value(option: Option, said: Mapping[str, Any], environ: Mapping[str, str]) -> Any:
    if option.name in said:
        return option.check(said[option.name])
    if option.secret and option.file_variable in environ:
        return option.parse(_secret(option, environ))
    if option.variable in environ:
        return option.parse(environ[option.variable])
    return option.default


def _secret(option: Option, environ: Mapping[str, str]) -> str:
    """The text of the file that the environment names. Raises SettingError."""
    if option.variable in environ:
        raise SettingError(f"{option.variable} and {option.file_variable} are both set: take one away")
    path = Path(environ[option.file_variable])
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingError(f"{option.file_variable}: {path} cannot be read: {error}") from None


def _text(value: Any) -> str:
    return ("1" if value else "0") if isinstance(value, bool) else str(value)


def _with_password(url: str, password: str) -> str:
    parts = urlsplit(url)
    user, _, host = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{user.partition(':')[0]}:{quote(password, safe='')}@{host}"))


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    if parts.password is None:
        return url
    user = parts.username or ""
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{user}@{host}" if user else host))
