"""What one run occupies in a sandbox while it runs, and what of it is left for the next."""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Callable
from dataclasses import replace
from typing import IO

from faaspot_runner.contract import MAX_LOG_BYTES
from faaspot_runner.contract.large import most_bytes
from faaspot_runner.lease import Lease
from faaspot_runner.runtimes.channels import Channels, Warm
from faaspot_runner.runtimes.spot_socket import SpotClient
from faaspot_runner.sandbox.cgroup_tree import RunSlot
from faaspot_runner.sandbox.cgroups import RunSlots
from faaspot_runner.sandbox.outcome import Outcome
from faaspot_runner.sandbox.reserve import reserve
from faaspot_runner.sandbox.result import Open
from faaspot_runner.sandbox.run import run_once

log = logging.getLogger(__name__)

_numbers = itertools.count()


class Seat:
    """A channel and, in the cgroup grade, a slot; with `reuse` perhaps the process of an earlier run."""

    def __init__(
        self, channels: Channels, slots: RunSlots | None, client: SpotClient, warm: Warm, lease: Lease
    ) -> None:
        """Raises OSError; then the channel was given back."""
        if warm.kept is not None and not warm.kept.idle():
            warm = channels.without_process(warm)
        self._channels = channels
        self._client = client
        self._warm = warm
        self._lease = lease
        self._reusable = False
        self._slots = slots if warm.counted else None
        try:
            self._slot = self._taken()
        except OSError:
            channels.release(warm)
            raise

    def _taken(self) -> RunSlot | None:
        if self._warm.kept is not None:
            return self._warm.kept.slot
        return self._slots.acquire(self._warm.spec.limits, sandbox=self._warm.sandbox) if self._slots else None

    def run(
        self,
        frame: bytes,
        deadline: float,
        on_log: Callable[[bytes], None],
        spool: Open,
        args: IO[bytes] | None = None,
    ) -> Outcome:
        """One `run_once`; the lease's word stops it. `args`: a file with those that the frame only announces."""
        stop = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._lease.on_stop(lambda: os.eventfd_write(stop, 1))
        kept, self._warm = self._warm.kept, replace(self._warm, kept=None)
        try:
            outcome = run_once(
                self._warm.channel,
                frame,
                id=self._lease.request.execution_id,
                limits=self._warm.spec.limits,
                deadline=deadline,
                slot=self._slot,
                cancelled=stop,
                on_log=on_log,
                log_limit=MAX_LOG_BYTES - len(self._warm.log.encode("utf-8", "replace")),
                keep=self._warm.spec.reuse,
                kept=kept,
                result_limit=most_bytes(self._warm.spec.limits.memory),
                spool=spool,
                args=args,
            )
        finally:
            self._lease.on_stop(None)
            os.close(stop)
        self._reusable = outcome.reason not in ("refused", "lost", "broken")
        self._warm = replace(self._warm, kept=outcome.kept)
        return outcome

    def settle(self) -> None:
        """Wait for the death of what was killed, then give back what no process needs any more."""
        try:
            if not self._warm.channel.settle():
                log.error("a process of %s does not die, sandbox %s is killed", self._lease.job, self._warm.sandbox)
                self._client.suspect(self._warm.sandbox, stuck=True)
        finally:
            if self._slots and self._slot and self._warm.kept is None:
                self._slots.release(self._slot)
            if self._reusable:
                self._channels.release(self._reserved())
            else:
                self._channels.discard(self._warm)

    def _reserved(self) -> Warm:
        """The channel with a fresh process for its next run, where that is worth one: runs came one after the other."""
        warm = self._warm
        if warm.kept is not None or not self._channels.wants_process(warm):
            return warm
        try:
            slot = self._slots.acquire(warm.spec.limits, sandbox=warm.sandbox) if self._slots else None
        except OSError as error:
            log.warning("no cgroup for the next run of %s: %s", warm.sandbox, error)
            return warm
        kept = reserve(warm.channel, id=f"next-{next(_numbers)}", limits=warm.spec.limits, slot=slot)
        if kept is None and self._slots and slot:
            self._slots.release(slot)
        return replace(warm, kept=kept)
