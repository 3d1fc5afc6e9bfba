"""Cgroup v1 controllers, with the v2 mount beside them for killing where there is one."""

from __future__ import annotations


class TreeV1:
    version = "v1"
