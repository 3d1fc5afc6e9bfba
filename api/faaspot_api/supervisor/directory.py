"""The data directory: whose it is, that nobody else uses it, what it must hold before anything starts.

See ARCHITECTURE.md for the tree. Started as root, what the service processes write belongs to their uid; everything
else is root's.
"""

from __future__ import annotations

import fcntl
import json
import os
import pwd
import secrets
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from faaspot_api.keys import new_pair, private_key_file, public_key_file
from faaspot_api.settings import Settings
from faaspot_api.supervisor.errors import CannotStartError

FORMAT = 1
SERVICE_USER = "faaspot"
STOPPING = "stopping"
LOCK_SECONDS = 8.0
"""How long a start waits for a predecessor that is stopping, or for what a killed one has left: its Redis saves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DataDirectory:
    """The data directory `path`; `uid` is who the service processes run as, None: as we are."""

    path: Path
    uid: int | None

    @property
    def marker(self) -> Path:
        return self.path / "faaspot.json"

    @property
    def lock(self) -> Path:
        return self.path / "lock"

    @property
    def admin_token(self) -> Path:
        return self.path / "admin-token"

    @property
    def password(self) -> Path:
        return self.path / "keys" / "redis-password"

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    @property
    def spots(self) -> Path:
        return self.path / "spots.json"

    @property
    def service_paths(self) -> tuple[Path, ...]:
        """What the service processes may see of it."""
        names = ("db", "blobs", "redis", "run", "keys/redis-password", "keys/spot.pub")
        return tuple(self.path / name for name in names)

    # ------------------------------------------------------------ before anything is made

    def inspect(self) -> None:
        """Look without touching. Raises CannotStartError for a directory that is not ours or cannot be written."""
        if not self.path.exists():
            self._inspect_parent()
            return
        if not self.path.is_dir():
            raise CannotStartError(f"{self.path} is not a directory: choose another --data-dir")
        if not os.access(self.path, os.R_OK | os.W_OK | os.X_OK):
            raise CannotStartError(f"the data directory {self.path} cannot be written: choose another --data-dir")
        if self.marker.exists():
            self._inspect_marker()
        elif any(name.name != "lock" for name in self.path.iterdir()):
            raise CannotStartError(
                f"{self.path} is not empty and not a faaspot data directory: choose another --data-dir"
            )

    def _inspect_parent(self) -> None:
        parent = next(parent for parent in self.path.parents if parent.exists())
        if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
            raise CannotStartError(f"{self.path} cannot be made in {parent}: choose another --data-dir")

    def _inspect_marker(self) -> None:
        try:
            known = json.loads(self.marker.read_text())
            number = int(known["format"])
        except (OSError, ValueError, TypeError, KeyError):
            raise CannotStartError(f"{self.marker} cannot be read: choose another --data-dir") from None
        if number > FORMAT:
            raise CannotStartError(f"{self.path} was made by a newer faaspot: use that one, or another --data-dir")
        owner = self.path.stat().st_uid
        if owner != os.geteuid():
            raise CannotStartError(
                f"{self.path} belongs to {_user(owner)}: start as that user, or use another --data-dir"
            )

    # ------------------------------------------------------------ ours from here on

    @contextmanager
    def claimed(self) -> Iterator[int]:
        """Hold the directory; gives the lock's descriptor. Raises CannotStartError if another platform runs on it.

        Redis inherits the descriptor: the lock is free only when no server writes these files any more.
        """
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(self.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            self._take(descriptor)
            os.truncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
            yield descriptor
        finally:
            os.close(descriptor)

    def _take(self, descriptor: int) -> None:
        deadline = time.monotonic() + LOCK_SECONDS
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                holder, _, doing = os.pread(descriptor, 40, 0).decode(errors="replace").strip().partition(" ")
                # Who is on the way out is waited for, like what a killed one left.
                if (_alive(holder) and doing != STOPPING) or time.monotonic() > deadline:
                    raise CannotStartError(self._refusal(holder, doing)) from None
            time.sleep(0.02)

    def _refusal(self, holder: str, doing: str) -> str:
        who = f"another faaspot (process {holder})" if holder else "another faaspot"
        if doing == STOPPING and _alive(holder):
            return f"{who} on {self.path} is stopping, its runs have until its grace is over: try again in a moment"
        return f"{who} runs on {self.path}: stop it, or use another --data-dir"

    def say_stopping(self, descriptor: int) -> None:
        """Tell who wants the directory next, through the lock's `descriptor`, that it will soon be free."""
        os.pwrite(descriptor, f"{os.getpid()} {STOPPING}\n".encode(), 0)

    def furnish(self, *, own_redis: bool = True, spot_key: Path | None = None) -> None:
        """Make what is missing, the marker first, so that a start cut short can be done again. Leaves what is there.

        `spot_key`: the file for the spots' private key, None: in this directory.
        """
        if not self.marker.exists():
            self.take_over()
            known = {"format": FORMAT, "id": str(uuid.uuid4())}
            self.write("faaspot.json", (json.dumps(known) + "\n").encode(), 0o644)
        if self.uid is not None:
            # The service processes pass through; what they may not read has modes of its own.
            self.path.chmod(0o711)
        self._directory("keys", 0o711 if self.uid is not None else 0o700)
        self._directory("logs", 0o700)
        for name in ("db", "blobs", "run"):
            self._directory(name, 0o700, self.uid)
        if not own_redis:
            # A spot takes the file for the password of whatever Redis it is told.
            self.password.unlink(missing_ok=True)
        elif not self.password.exists():
            self.write("keys/redis-password", secrets.token_hex(32).encode(), 0o600, self.uid)
        if not public_key_file(self.path).exists():
            private, public = new_pair()
            _replace(spot_key or private_key_file(self.path), private, 0o600)
            _replace(public_key_file(self.path), public, 0o644)

    def take_over(self) -> None:
        """Make the empty directory ours: an engine gives a new volume the owner that the image's directory has."""
        if self.uid is not None:
            os.chown(self.path, 0, 0)
            self.path.chmod(0o711)

    def clear_run(self) -> None:
        """Take away what only a running platform needs, left behind by a killed one, too."""
        for path in (self.path / "run").iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def write(self, name: str, content: bytes, mode: int, owner: int | None = None) -> None:
        """Replace a file at once and for good: whole after a crash, never readable for more than `mode` says."""
        _replace(self.path / name, content, mode, owner)

    def _directory(self, name: str, mode: int, owner: int | None = None) -> None:
        path = self.path / name
        if owner is not None and path.exists() and path.stat().st_uid not in (owner, os.geteuid()):
            raise CannotStartError(
                f"{path} belongs to {_user(path.stat().st_uid)}, the services run as {_user(owner)}:"
                f" set FAASPOT_SERVICE_UID={path.stat().st_uid}, or chown -R it"
            )
        path.mkdir(mode=mode, exist_ok=True)
        if owner is not None:
            os.chown(path, owner, owner)
        path.chmod(mode)


def data_directory(settings: Settings) -> DataDirectory:
    """The settings' data directory, and the uid that its services get."""
    return DataDirectory(path=settings.data_dir, uid=_service_uid(settings) if os.geteuid() == 0 else None)


def _service_uid(settings: Settings) -> int:
    try:
        return pwd.getpwnam(SERVICE_USER).pw_uid
    except KeyError:
        return settings.service_uid


def _replace(path: Path, content: bytes, mode: int, owner: int | None = None) -> None:
    path.parent.mkdir(mode=0o700, exist_ok=True)
    fresh = path.with_name(f".{path.name}.new")
    fresh.unlink(missing_ok=True)
    with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        if owner is not None:
            os.fchown(file.fileno(), owner, owner)
        os.fchmod(file.fileno(), mode)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)


def _alive(pid: str) -> bool:
    return pid.isdigit() and Path(f"/proc/{pid}").exists()


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"
