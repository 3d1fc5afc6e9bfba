"""The gate of a sandbox with an allow-list: a packet filter and a resolver, both in its own network namespace.

::

    sandbox ──question──> 127.0.0.1:53 (ours) ──listed?──> the host's resolver
       │                        └── addresses that may be reached, put into the filter BEFORE they are answered
       └──packets──> filter of the namespace: refused networks, then what is listed, nothing else ──> router ──> host

The sandbox has no right over this namespace, so it can change neither. Its resolver answers listed names alone, from
what it has looked up itself: no byte of a question leaves the machine, so nothing can be carried out in one. An address
is in the filter only if a lookup of a listed name gave it in the last `LINGER` seconds and it is neither in a refused
network nor the host's own; a name that is turned to another address (rebinding) opens that address or nothing, never an
inner one. Connections that stand outlive their address's leaving.

The filter is replaced whole, in one step. Behind it the router's and the host's rules hold as for every sandbox.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import socket
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network

from faaspot_runner.contract.egress import EgressRule
from faaspot_runner.sandbox import resolver
from faaspot_runner.sandbox.firewall import Confinement, Firewall, FirewallError, Passage
from faaspot_runner.sandbox.netns import in_namespace
from faaspot_runner.sandbox.resolver import Question

log = logging.getLogger(__name__)

RESOLV_CONF = "nameserver 127.0.0.1\noptions timeout:6 attempts:2\n"
PORT = 53
FRESH = 30.0
"""Seconds for which a lookup is answered again without another one."""
RETRY = 3.0
"""The same for a lookup that failed."""
LINGER = 600.0
"""Seconds for which an address that a name had may still be connected to: programs keep what they once were told."""
MOST_KEPT = 32
"""Addresses of one name in the filter; beyond it the oldest goes."""
MOST_LOOKUPS = 4
MOST_WAITING = 64
PER_QUESTION = 0.002
"""Seconds that each question costs its asker: a flood must not keep the spot busy."""


def lookup(name: str) -> list[IPv4Address]:
    """The addresses that the host's own resolver knows. The final dot: no search domain is tried. Raises OSError."""
    found = socket.getaddrinfo(f"{name}.", None, socket.AF_INET, socket.SOCK_STREAM)
    return [IPv4Address(entry[4][0]) for entry in found]


@dataclass(slots=True)
class _Known:
    """One listed name. `kept`: address -> when it leaves the filter; `answers`, `code`: what the last lookup gave."""

    kept: dict[IPv4Address, float] = field(default_factory=dict)
    answers: tuple[IPv4Address, ...] = ()
    code: int = resolver.NO_SUCH_NAME
    fresh_until: float = 0.0
    waiting: list[tuple[Question, tuple[str, int]]] = field(default_factory=list)
    looking: bool = False


class Gate:
    """See the module. `Gate.open` returns when nothing can pass that should not; `close` ends the resolver."""

    def __init__(
        self, fd: int, rules: Sequence[EgressRule], denied: tuple[IPv4Network, ...], firewall: Firewall
    ) -> None:
        self._fd = os.dup(fd)
        self._rules = rules
        self._denied = denied
        self._firewall = firewall
        self._names = {rule.name: _Known() for rule in rules if rule.name is not None}
        self._lock = threading.Lock()
        self._lookups = threading.BoundedSemaphore(MOST_LOOKUPS)
        self._stop = os.eventfd(0, os.EFD_CLOEXEC)
        self._socket: socket.socket | None = None
        self._thread = threading.Thread(target=self._serve, name="gate", daemon=True)

    @classmethod
    def open(cls, fd: int, rules: Sequence[EgressRule], *, denied: tuple[IPv4Network, ...], firewall: Firewall) -> Gate:
        """Close the namespace `fd` but for what `rules` list. Raises OSError, FirewallError; then nothing is left."""
        gate = cls(fd, rules, denied, firewall)
        try:
            gate._confine()
            gate._socket = in_namespace(gate._fd, _listener)
        except BaseException:
            gate._free()
            raise
        gate._thread.start()
        return gate

    def close(self) -> None:
        """End the resolver. The filter stays for as long as the namespace does. Harmless when repeated."""
        if self._thread.is_alive():
            os.eventfd_write(self._stop, 1)
            self._thread.join()

    # ------------------------------------------------------------ questions

    def _serve(self) -> None:
        """The gate's thread: hear questions, and take addresses out of the filter when their time is over."""
        assert self._socket is not None
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        poll.register(self._stop, select.POLLIN)
        try:
            while not any(fd == self._stop for fd, _ in poll.poll(self._next_expiry())):
                self._expire()
                if self._hear() and _readable(self._stop, PER_QUESTION):
                    break
        finally:
            self._free()

    def _hear(self) -> bool:
        """One question; False if there is none."""
        assert self._socket is not None
        try:
            packet, peer = self._socket.recvfrom(resolver.MAX_PACKET + 1)
        except OSError:
            return False
        asked = resolver.question(packet)
        if asked is not None:
            self._take(asked, peer)
        return True

    def _take(self, asked: Question, peer: tuple[str, int]) -> None:
        known = self._names.get(asked.name)
        if known is None:
            self._say(resolver.refusal(asked, resolver.NO_SUCH_NAME), peer)
            return
        if asked.kind != resolver.TYPE_A:
            self._say(resolver.answer(asked, (), int(FRESH)), peer)
            return
        with self._lock:
            left = known.fresh_until - time.monotonic()
            if left <= 0:
                if len(known.waiting) < MOST_WAITING:
                    known.waiting.append((asked, peer))
                begin, known.looking = not known.looking, True
        if left > 0:
            self._say(_said(asked, known, left), peer)
        elif begin:
            threading.Thread(target=self._find, args=(asked.name, known), name="lookup", daemon=True).start()

    def _find(self, name: str, known: _Known) -> None:
        """Look a name up, let its addresses through, then answer all who wait. A thread of its own."""
        try:
            with self._lookups:
                found = [each for each in dict.fromkeys(lookup(name)) if self._may_be_reached(each)]
            self._keep(known, found)
        except (OSError, FirewallError) as error:
            log.info("the listed name %s could not be looked up: %s", name, error)
            self._miss(known, error)
        finally:
            with self._lock:
                known.looking = False
                waiting, known.waiting = known.waiting, []
            for asked, peer in waiting:
                self._say(_said(asked, known, known.fresh_until - time.monotonic()), peer)

    def _may_be_reached(self, address: IPv4Address) -> bool:
        return not any(address in network for network in self._denied) and not _is_own(address)

    def _keep(self, known: _Known, found: Sequence[IPv4Address]) -> None:
        """Have the filter let these through as well. Raises FirewallError, OSError; then nothing has changed."""
        now = time.monotonic()
        with self._lock:
            before = dict(known.kept)
            known.kept |= dict.fromkeys(found, now + LINGER)
            for oldest in sorted(known.kept, key=known.kept.__getitem__)[:-MOST_KEPT]:
                del known.kept[oldest]
            try:
                if known.kept.keys() != before.keys():
                    self._confine()
            except (OSError, FirewallError):
                known.kept = before
                raise
            known.answers, known.code = tuple(each for each in found if each in known.kept), resolver.NO_SUCH_NAME
            known.fresh_until = now + FRESH

    def _miss(self, known: _Known, error: Exception) -> None:
        """A lookup failed: what may still be reached is a better answer than none. Not asked again at once."""
        unknown = isinstance(error, socket.gaierror) and error.errno in (socket.EAI_NONAME, socket.EAI_NODATA)
        with self._lock:
            known.answers = () if unknown else tuple(known.kept)
            known.code = resolver.NO_SUCH_NAME if unknown else resolver.SERVER_FAILED
            known.fresh_until = time.monotonic() + RETRY

    def _say(self, packet: bytes, peer: tuple[str, int]) -> None:
        # A gate that was closed meanwhile, or an asker who does not listen any more, needs no answer.
        with contextlib.suppress(OSError):
            if self._socket is not None:
                self._socket.sendto(packet, peer)

    # ------------------------------------------------------------ the filter

    def _confine(self) -> None:
        passages = [
            Passage(network=rule.network, first=rule.first, last=rule.last)
            for rule in self._rules
            if isinstance(rule.network, IPv4Network)
        ]
        for rule in self._rules:
            if rule.name is not None:
                passages += [
                    Passage(network=IPv4Network(address), first=rule.first, last=rule.last)
                    for address in self._names[rule.name].kept
                ]
        confinement = Confinement(denied=self._denied, passages=tuple(passages))
        in_namespace(self._fd, lambda: self._firewall.confine(confinement))

    def _next_expiry(self) -> float | None:
        """Milliseconds until an address has to leave the filter, None if there is none."""
        with self._lock:
            ends = [end for known in self._names.values() for end in known.kept.values()]
        return max(0.0, min(ends) - time.monotonic()) * 1000 + 1 if ends else None

    def _expire(self) -> None:
        now = time.monotonic()
        with self._lock:
            late = [(known, each) for known in self._names.values() for each, end in known.kept.items() if end <= now]
            for known, address in late:
                del known.kept[address]
            if late:
                try:
                    self._confine()
                except (OSError, FirewallError) as error:
                    log.error("addresses that a listed name had once can still be reached: %s", error)
                    for known, address in late:  # they are in the filter still: once more
                        known.kept[address] = now + RETRY

    def _free(self) -> None:
        with self._lock:
            sock, self._socket = self._socket, None
            if sock is not None:
                sock.close()
            for fd in (self._fd, self._stop):
                os.close(fd)
            self._fd = self._stop = -1


def _listener() -> socket.socket:
    """The resolver's socket in the thread's namespace. Its port is a privileged one: no sandbox can take it."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        sock.bind(("127.0.0.1", PORT))
    except OSError:
        sock.close()
        raise
    return sock


def _said(asked: Question, known: _Known, seconds: float) -> bytes:
    if not known.answers:
        return resolver.refusal(asked, known.code)
    return resolver.answer(asked, known.answers, max(1, int(seconds)))


def _is_own(address: IPv4Address) -> bool:
    """Whether an address is this host's: to such a one the kernel would send from itself. Nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((str(address), PORT))
        except OSError:
            return False
        return bool(probe.getsockname()[0] == str(address))


def _readable(fd: int, seconds: float) -> bool:
    poll = select.poll()  # not `select`, which takes no descriptor above 1023
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(seconds * 1000))
