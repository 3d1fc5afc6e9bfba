"""How much memory the machine has left: what is kept only to be quick goes before anything else suffers."""

from __future__ import annotations

from pathlib import Path

_MEMINFO = Path("/proc/meminfo")


def free_share() -> float:
    """The part of the machine's memory, 0 to 1, that is free or could be at once."""
    head = _MEMINFO.read_bytes()[:512]
    total, available = (int(head.partition(name)[2].split()[0]) for name in (b"MemTotal:", b"MemAvailable:"))
    return available / total
