"""Spots on any host: their own lines of wake-ups, what is wanted of each, what one on another host is given."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from faaspot_runner.contract import PREFIX, SandboxSpec, sandbox_spec

WISHES = PREFIX + "wishes"
"""Redis hash: spot address, or `EVERY`, -> JSON of `Wish`. Written by the API, read by each spot every second."""
WARM = PREFIX + "warm"
"""Redis hash: spot address -> what shall stand ready there without a run (`Warm`). Written by the API, read by each
spot every second."""
EVERY = "*"
"""Stands for all spots that have no numbers of their own."""
JOINED = PREFIX + "joined"
"""Redis set: addresses of the spots on other hosts. They may not write into `SPOTS`, where they could speak for others;
each has a key of its own, `spot_key`."""
SEALED_FOR = "faaspot spot credentials"
"""What the sealed `Credentials` are bound to, where a context is to its version."""
MAX_ARCHIVE_BYTES = 2 * 1024 * 1024 * 1024
"""Of a packed environment."""


def own_line(queue: str, ip: str) -> str:
    """The queue of the wake-ups that only the spot at `ip` shall take, beside the common one of that name."""
    return f"{queue}@{ip}"


def owner_of(line: str) -> tuple[str, str | None]:
    """The queue's common name, and the address of the spot whose own line it is, None for the common one."""
    queue, _, ip = line.partition("@")
    return queue, ip or None


def spot_key(ip: str) -> str:
    """Redis string: JSON of `SpotInfo` of a spot on another host."""
    return f"{PREFIX}spot:{ip}"


def spot_user(ip: str) -> str:
    """The name of such a spot, as Redis' user and as the API's token."""
    return f"spot-{ip.replace(':', '-')}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What people want of a spot. None: as it was started.

    `draining`: take nothing new; `leaving`: and end when nothing runs any more. `least`, `most`: worker processes for
    sync runs, and as many for background runs, between which it follows its queues.
    """

    draining: bool = False
    leaving: bool = False
    least: int | None = None
    most: int | None = None

    def text(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def of(cls, own: str | bytes | None, every: str | bytes | None) -> Wish:
        """What the two fields of `WISHES` together say of a spot. Raises ValueError for what is no wish."""
        mine, common = _fields(own), _fields(every)
        numbers = mine if mine.get("least") is not None or mine.get("most") is not None else common
        try:
            return cls(**{**mine, "least": numbers.get("least"), "most": numbers.get("most")})
        except TypeError as error:
            raise ValueError(f"malformed wish: {error}") from error


@dataclass(frozen=True, slots=True)
class Warm:
    """The versions whose sandbox shall stand ready at a spot before anybody runs them; the first come first."""

    specs: tuple[SandboxSpec, ...] = ()

    def text(self) -> str:
        return json.dumps([asdict(spec) for spec in self.specs])

    @classmethod
    def of(cls, text: str | bytes | None) -> Warm:
        """Raises ValueError for what is no such list."""
        try:
            return cls(tuple(sandbox_spec(each) for each in json.loads(text or "[]")))
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"malformed list of what is to stand ready: {error}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """What a spot on another host needs beside the API: sealed to the key that it asked with, so that nobody reads it.

    `spot_key`: that opens contexts, base64; `redis`: URL with the user and without the password; the host `api` in it
    stands for the one at which the spot reaches the API; `authority`: PEM of who vouches for Redis' certificate, "" for
    the machine's own list; `pinned`: that is the certificate itself, so no name is compared.
    """

    spot_key: str
    redis: str
    password: str
    authority: str = ""
    pinned: bool = False

    def text(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def of(cls, text: str | bytes) -> Credentials:
        """Raises ValueError for anything else."""
        try:
            return cls(**json.loads(text))
        except TypeError as error:
            raise ValueError(f"malformed credentials: {error}") from error


def _fields(text: str | bytes | None) -> dict[str, Any]:
    found = json.loads(text) if text else {}
    if not isinstance(found, dict):
        raise ValueError("a wish is a JSON object")
    return found
