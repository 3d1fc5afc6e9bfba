"""How much memory a run takes, looked at from outside, where no cgroup counts it (the `rlimit` grade)."""

from __future__ import annotations


class MemoryWatch:
    """Adds up what a run's process tree costs the host. Poll it every 20 to 50 ms and kill the run above its limit."""

    def __init__(self, pid: int) -> None:
        """`pid`: the run's init (pid 1 of its pid namespace) as this process sees it.

        Raises PermissionError if its descriptors cannot be counted: such a run must not start.
        """
        raise NotImplementedError

    def charged_mb(self, limit_mb: int) -> float:
        """Megabytes charged now; 0.0 when the run is gone. Exact only above `limit_mb`, below it a quick upper bound."""
        raise NotImplementedError

    def tasks(self) -> int:
        """Processes and threads of the run, as of the last `charged_mb`."""
        raise NotImplementedError

    def peak_mb(self) -> float:
        """The highest sum seen so far."""
        raise NotImplementedError

    def cpu_ms(self) -> float:
        """Processor time seen so far; read it once more before the kill."""
        raise NotImplementedError
