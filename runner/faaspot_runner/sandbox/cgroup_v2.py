"""Pure cgroup v2, at the root or in a delegated subtree."""

from __future__ import annotations


class TreeV2:
    version = "v2"
