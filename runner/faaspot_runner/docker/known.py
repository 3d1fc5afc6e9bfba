"""Holes that are known in versions of what runs containers: a list of facts, for `fas doctor`.

By version numbers alone: a distribution may have repaired an older one, and says so in its package's changelog.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

Version = tuple[int, int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Hole:
    """`fixed`: the first good version of each line that was repaired; later lines never had it."""

    name: str
    program: str
    fixed: tuple[Version, ...]
    lets: str


HOLES = (
    Hole(
        name="CVE-2019-5736",
        program="runc",
        fixed=((1, 0, 0),),
        lets="a container overwrites the host's runc",
    ),
    Hole(
        name="CVE-2024-21626",
        program="runc",
        fixed=((1, 1, 12),),
        lets="a container reaches the host's files by a leaked directory",
    ),
    *(
        Hole(
            name=name,
            program="runc",
            fixed=((1, 2, 8), (1, 3, 3), (1, 4, 0)),
            lets="a container that is being made writes to the host's /proc",
        )
        for name in ("CVE-2025-31133", "CVE-2025-52565", "CVE-2025-52881")
    ),
    Hole(
        name="CVE-2024-23651",
        program="Engine",
        fixed=((24, 0, 9), (25, 0, 2)),
        lets="a build reaches the host's files by a race of its cache mounts",
    ),
    Hole(
        name="CVE-2024-41110",
        program="Engine",
        fixed=((23, 0, 15), (25, 0, 6), (26, 1, 5), (27, 1, 1)),
        lets="requests pass an authorization plugin unseen",
    ),
    Hole(
        name="CVE-2024-25621",
        program="containerd",
        fixed=((1, 7, 29), (2, 0, 7), (2, 1, 5), (2, 2, 0)),
        lets="users of the host enter containerd's directories",
    ),
)


def holes(program: str, version: str) -> Iterator[Hole]:
    """Those of a program ("runc", "Engine", "containerd") in that version; none if it cannot be read."""
    found = re.match(r"v?(\d+)\.(\d+)\.(\d+)", version)
    if found is None:
        return
    number = (int(found[1]), int(found[2]), int(found[3]))
    for hole in HOLES:
        if hole.program == program and not _has_it_fixed(number, hole):
            yield hole


def _has_it_fixed(number: Version, hole: Hole) -> bool:
    line = next((fixed for fixed in hole.fixed if fixed[:2] == number[:2]), None)
    return number >= line if line else number[:2] > hole.fixed[-1][:2]
