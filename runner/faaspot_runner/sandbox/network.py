"""`network: internet` for sandboxes of a root spot: out to public addresses, to nothing else.

::

    spot = Egress.open("NAME") # or EgressUnavailable, whose text goes into SpotInfo.problems
    lease = spot.lease()                       # from a pool that is filled ahead
    ... the launcher: setns(lease.fd, CLONE_NEWNET) BEFORE it makes the user namespace, writes lease.resolv_conf ...
    lease.release()                            # when the sandbox is dead
"""

from __future__ import annotations

from dataclasses import dataclass


class EgressUnavailable(Exception):
    """`network: internet` cannot be offered safely here; the text says why and what to do."""


@dataclass(slots=True, kw_only=True)
class NetworkLease:
    """A network namespace of one sandbox: lo up, one address, default route, no IPv6.

    `fd`: the namespace, close-on-exec. It belongs to the initial user namespace: join it before making a new one.
    `resolv_conf`: text for the sandbox's /etc/resolv.conf.
    """

    fd: int
    address: str
    resolv_conf: str

    def release(self) -> None:
        """Take the namespace away; harmless when repeated. Processes still in it lose their link at once."""
        raise NotImplementedError


class Egress:
    """The way out of one spot."""

    @classmethod
    def open(cls, name: str, *, deny: tuple[str, ...] = (), spare: int = 2) -> Egress:
        """Set the way up. `deny`: further networks in CIDR form; `spare`: leases made ahead.

        Sweeps first what a dead spot of the same name left. Raises EgressUnavailable.
        """
        raise NotImplementedError

    def lease(self) -> NetworkLease:
        """A namespace for one sandbox. Raises OSError."""
        raise NotImplementedError

    def close(self) -> None:
        """Take all of it away again."""
        raise NotImplementedError


def unavailable() -> str | None:
    """Why `Egress.open` cannot work here, None if it can. Changes nothing; for `fas doctor`."""
    raise NotImplementedError
