"""What each child is: its command, its environment, its rights.

Secrets go by environment or by file, never by argument. The web processes and the recorder get all settings; a spot,
which runs as root and beside other people's code, only what its own command line takes.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.util import cache_from_source
from pathlib import Path
from urllib.parse import unquote, urlsplit

from faaspot_api import settings as settings_module
from faaspot_api.queue.embedded import Embedded
from faaspot_api.settings import Settings, inherited
from faaspot_api.supervisor.children import Program
from faaspot_api.supervisor.directory import DataDirectory
from faaspot_api.supervisor.tls import Certificate
from faaspot_runner.contract.bucket import KEY_ID_VARIABLE, SECRET_VARIABLE

CA_VARIABLES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "PGSSLROOTCERT")
DEFAULT_LEVEL = Settings().log_level
"""A level that was not said for the platform leaves FAASPOT_SPOT_LOG_LEVEL its say."""
PACKAGE = Path(settings_module.__file__).parent
_IMPORTS = "import faaspot_api.app, faaspot_api.recorder, faaspot_api.server"
_HOME_VARIABLES = ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_RUNTIME_DIR")

HEAP = {"MALLOC_ARENA_MAX": "2"}
"""glibc gives threads that want memory at once an arena each, up to 8 for each core, and keeps what was once large in
every one: web processes of 160 and 280 MB after large bodies, with two arenas of 105. The interpreter's lock leaves
little for more of them to win. What the operator has set counts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Programs:
    """The platform's programs for one data directory. `settings` has Redis' socket and the certificate filled in."""

    settings: Settings
    directory: DataDirectory
    certificate: Certificate | None = None

    def redis(self, server: Embedded, lock: int) -> Program:
        """The private Redis. It holds the directory's lock too, and saves when the supervisor dies."""
        return Program(
            name="redis",
            command=tuple(server.command),
            environ={"LANG": "C.UTF-8", "TZ": "UTC"},
            uid=self.directory.uid,
            needed=(str(server.binary), str(server.directory), str(server.socket.parent)),
            descriptors=(lock,),
            death_signal=signal.SIGTERM,
        )

    def bytecode(self) -> Program:
        """Compiles our modules, and by importing them what they need, where the service uid may not write; ends."""
        code = f"import compileall; compileall.compile_dir({str(PACKAGE)!r}, quiet=2); {_IMPORTS}"
        environ = {name: value for name, value in inherited().items() if name != "PYTHONDONTWRITEBYTECODE"}
        return Program(name="bytecode", command=(sys.executable, "-P", "-c", code), environ=environ)

    def web(self, listener: int, token: str, ready: int | None = None) -> Program:
        """Brings the database up to date, makes sure of the admin token `token`, answers on the inherited socket.

        `ready`: a descriptor into which it writes when it answers.
        """
        telling = () if ready is None else ("--ready-fd", str(ready))
        program = self._service("gunicorn", "gunicorn", "--fd", str(listener), "--token-from-stdin", *telling)
        return replace(program, descriptors=(listener,) if ready is None else (listener, ready), secret=token)

    def recorder(self, ready: int | None = None) -> Program:
        """The recorder and reconciler. `ready`: a descriptor into which it writes when it records."""
        telling = () if ready is None else ("--ready-fd", str(ready))
        program = self._service("recorder", "recorder", *telling)
        return program if ready is None else replace(program, descriptors=(ready,))

    def door(self, listener: int, certificate: Certificate) -> Program:
        """Lets spots of other hosts to the private Redis, through the inherited socket."""
        settings = replace(self.settings, certfile=str(certificate.certfile), keyfile=str(certificate.keyfile))
        program = replace(self, settings=settings, certificate=certificate)._service(
            "door", "door", "--fd", str(listener)
        )
        return replace(program, descriptors=(listener,))

    def spot(self, ip: str, parent: int) -> Program:
        """A local spot at `ip`: root if we are, since it makes sandboxes."""
        settings = self.settings
        sets = f"sync={settings.workers},background={settings.workers},builds={settings.build_workers}"
        command = [
            *(sys.executable, "-P", "-m", "faaspot_runner", "spot", "--ip", ip),
            *("--data-dir", str(settings.data_dir), "--redis-url", settings.redis, "--workers", sets),
            *("--grace", f"{settings.grace:g}", "--parent-pid", str(parent)),
            *(("--log-level", settings.log_level) if settings.log_level != DEFAULT_LEVEL else ()),
        ]
        for flag, text in (
            ("--bucket", settings.blobs),
            ("--bucket-endpoint", settings.bucket_endpoint),
            ("--bucket-region", settings.bucket_region),
            ("--failpoints", settings.failpoints),
        ):
            command += [flag, text] if text else []
        if settings.allow_process_runtime:
            command.append("--allow-process")
        environ = {**HEAP, **inherited(), **self._passwords()}
        return Program(name=f"spot {ip}", command=tuple(command), environ=environ)

    def _passwords(self) -> dict[str, str]:
        """Those of a Redis that is not ours (of ours it is in a file), and of a bucket."""
        found = {KEY_ID_VARIABLE: self.settings.bucket_key_id, SECRET_VARIABLE: self.settings.bucket_secret}
        if not self.settings.own_redis:
            found |= {
                "FAASPOT_REDIS_PASSWORD": self.settings.redis_secret() or "",
                "FAASPOT_REDIS_SENTINEL_PASSWORD": self.settings.redis_sentinel_password,
            }
        return {name: text for name, text in found.items() if text}

    def _service(self, name: str, *arguments: str) -> Program:
        environ = {**HEAP, **inherited(), **self.settings.environment(leave_out=("token", "port", "host"))}
        if self.directory.uid is not None:
            # Root's home is not theirs, and nothing of it may steer them.
            environ = {key: value for key, value in environ.items() if key not in _HOME_VARIABLES}
        return Program(
            name=name,
            command=(sys.executable, "-P", "-m", "faaspot_api", *arguments),
            environ=environ,
            uid=self.directory.uid,
            needed=self._needed(environ),
        )

    def _needed(self, environ: Mapping[str, str]) -> tuple[str, ...]:
        """Everything outside of what all systems share that a service process opens."""
        paths = [*_interpreter(), *(str(path) for path in self.directory.service_paths)]
        paths += [str(Path(_socket(self.settings.redis)).parent)] if self.settings.own_redis else []
        paths += [self.settings.failpoints] if self.settings.failpoints else []
        paths += [environ[name] for name in CA_VARIABLES if name in environ]
        if (database := _sqlite_file(self.settings.database)) is not None:
            paths.append(str(database.parent))
        if self.certificate is not None:
            paths += [str(self.certificate.certfile), str(self.certificate.keyfile)]
        return tuple(dict.fromkeys(path for path in paths if path.startswith("/")))


def is_compiled() -> bool:
    """Whether each of our own modules has byte-code that is newer than it: without, every start compiles anew."""
    for source in PACKAGE.rglob("*.py"):
        cached = Path(cache_from_source(str(source)))
        if not cached.exists() or cached.stat().st_mtime < source.stat().st_mtime:
            return False
    return True


def _interpreter() -> list[str]:
    """The running interpreter, its library, its packages and our own source."""
    return [
        sys.executable,
        sys.base_prefix,
        sys.prefix,
        str(PACKAGE.parent),
        *(path for path in sys.path if path.startswith("/")),
    ]


def _socket(url: str) -> str:
    return unquote(urlsplit(url).path)


def _sqlite_file(url: str) -> Path | None:
    scheme, _, rest = url.partition(":///")
    return Path("/" + rest.lstrip("/")) if scheme.startswith("sqlite") and rest.startswith("/") else None
