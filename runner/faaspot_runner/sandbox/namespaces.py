"""User namespaces from the host's side: throw-away uid pairs, and who is who inside."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from pathlib import Path

ROOT_INSIDE = 0
USER_INSIDE = 1000
"""The uid of a run inside: the second of the pair, or for an ordinary user that user's own."""
FIRST_UID = 2_000_000_000
MOST_PAIRS = 1_000_000


@dataclass
class UidPair:
    """Two host uids that one sandbox has for itself: the zygote's and its runs'."""

    first: int
    lock: socket.socket

    def release(self) -> None:
        """Free for another sandbox; call it when every process of this one is dead. Harmless when repeated."""
        self.lock.close()

    def map(self) -> str:
        """The lines of uid_map and gid_map. Host uid 0 is in none."""
        return f"{ROOT_INSIDE} {self.first} 1\n{USER_INSIDE} {self.first + 1} 1\n"


class UidPairs:
    """Gives out pairs that no other sandbox on this machine has, whichever process made it.

    A pair is held by an abstract socket's name, which the kernel frees when its holder dies.
    """

    def __init__(self, first: int = FIRST_UID) -> None:
        self._first = first
        self._next = 0

    def acquire(self) -> UidPair:
        """The next free pair. Raises OSError when there is none."""
        for _ in range(MOST_PAIRS):
            number = self._next
            self._next = (self._next + 1) % MOST_PAIRS
            lock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            try:
                lock.bind(f"\0faaspot-uids-{self._first + 2 * number}")
            except OSError:
                lock.close()
                continue
            return UidPair(first=self._first + 2 * number, lock=lock)
        raise OSError("no uid pair is free")


def write_maps(pid: int, uid_map: str | None) -> None:
    """Say who is who in the user namespace of `pid`; None: its uid 1000 is this process' own user.

    Raises OSError. The order is the kernel's: an ordinary user must give up setgroups before it may write a gid_map.
    """
    process = Path("/proc") / str(pid)
    if uid_map is None:
        (process / "setgroups").write_text("deny")
        (process / "uid_map").write_text(f"{USER_INSIDE} {os.geteuid()} 1\n")
        (process / "gid_map").write_text(f"{USER_INSIDE} {os.getegid()} 1\n")
    else:
        (process / "uid_map").write_text(uid_map)
        (process / "gid_map").write_text(uid_map)


def write_own_map(uid: int, gid: int) -> None:
    """Say that this process, alone in a new user namespace, is root in it; `uid` and `gid` are its own outside."""
    process = Path("/proc/self")
    (process / "setgroups").write_text("deny")
    (process / "uid_map").write_text(f"{ROOT_INSIDE} {uid} 1\n")
    (process / "gid_map").write_text(f"{ROOT_INSIDE} {gid} 1\n")


def write_same_maps(pid: int, *, mapped: bool) -> None:
    """Everybody is in the user namespace of `pid` who he is in this process' own, the one above it. Raises OSError.

    `mapped`: that one has both uids of a pair; else it has only the ordinary user.
    """
    both = f"{ROOT_INSIDE} {ROOT_INSIDE} 1\n{USER_INSIDE} {USER_INSIDE} 1\n"
    write_maps(pid, both if mapped else None)
