"""What the services decide by: times and counts of this server."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network

from faaspot_api.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Seconds, where nothing else is said. The upper half are the server's settings, the lower half is fixed."""

    max_timeout: float = 86_400.0
    max_sync_timeout: float = 900.0
    max_age: float = 86_400.0
    max_attempts: int = 3
    max_pending: int = 100_000
    """Runs of one token that may wait at once."""
    max_archives: int = 20_480 * 1024 * 1024
    """Bytes of packed environments that one spot on another host may have brought."""

    metrics_open: bool = False
    """Whether everybody may read the metrics."""
    metrics_off: bool = False
    spans: bool = False
    """Whether executions are spans of OpenTelemetry."""

    queueing: float = 30.0
    """What a sync caller waits beyond the deployment's timeout."""
    build_timeout: float = 900.0
    in_flight: float = 1.0
    """Longest wait of a reader for an end that is about to be written, and of a cancel for the kill."""
    callback_networks: tuple[IPv4Network | IPv6Network, ...] = ()
    """Inner networks that callbacks may reach all the same."""
    closed_hosts: tuple[str, ...] = ()
    """Hosts of the platform, which they never may, wherever these are."""
    callback_seconds: float = 10.0
    """Of one try, from the lookup of the name to the answer's head."""

    archive_seconds: float = 3_600.0
    """How long a packed environment is kept that no version has: its build may not be recorded yet."""
    key_seconds: float = 86_400.0
    """How long an idempotency key stands for what it was first used for."""
    unqueued: float = 3.0
    """A Pending record without wake-up and lease for this long is enqueued again; from queue to lease is quicker."""
    unleased: float = 10.0
    """A Started record without lease for this long has lost its worker; the lease itself has run out before that."""

    @classmethod
    def of(cls, settings: Settings) -> Policy:
        """The policy of a server with these settings."""
        return cls(
            max_timeout=settings.max_timeout,
            max_sync_timeout=settings.max_sync_timeout,
            max_age=settings.max_age,
            max_attempts=settings.max_attempts,
            max_pending=settings.max_pending,
            max_archives=settings.max_archives * 1024 * 1024,
            callback_networks=settings.open_networks,
            closed_hosts=settings.platform_hosts,
            metrics_open=settings.metrics == "open",
            metrics_off=settings.metrics == "off",
            spans=settings.otel,
        )
