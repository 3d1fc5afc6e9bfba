"""What a sandbox holds beside its processes, with one owner who gives it back."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Protocol

from faaspot_runner.errors import SandboxError
from faaspot_runner.sandbox.cgroup_tree import Group
from faaspot_runner.sandbox.namespaces import UidPair
from faaspot_runner.sandbox.network import NetworkLease

_TAKEN: list[UidPair] = []
"""Pairs that something may still have, for as long as this process lives: forgotten, they would be free."""


class Housing(Protocol):
    """What stands around a sandbox and goes with it: its container."""

    def oom_kills(self) -> int:
        """Processes in it that the kernel killed for memory so far."""

    def remove(self) -> bool:
        """Kill what is left in it and take it away; False if something does not die. May block; harmless repeated."""

    async def removal(self, call: Callable[[bool], None], dead: bool) -> None:
        """Make a call that removes it, in a thread that nothing but removals waits for."""


@dataclass(kw_only=True)
class Holdings:
    """What a sandbox holds beside its processes, to be freed after their death."""

    pair: UidPair | None = None
    group: Group | None = None
    lease: NetworkLease | None = None
    housing: Housing | None = None
    _freed: bool = field(default=False, init=False)

    @contextlib.asynccontextmanager
    async def kept(self) -> AsyncIterator[None]:
        """Free them if what is done with them fails. Raises SandboxError instead of an OSError."""
        try:
            yield
        except BaseException as error:
            await asyncio.shield(self.release())
            if isinstance(error, OSError):
                raise SandboxError(f"the sandbox did not start: {error}") from error
            raise

    def oom_kills(self) -> int:
        """Processes of the sandbox that the kernel killed for memory so far, as far as anything counts them."""
        counting = self.group or self.housing
        return counting.oom_kills() if counting is not None else 0

    async def release(self, dead: bool = True) -> None:
        """`free` in a thread."""
        if self.housing is not None:
            await self.housing.removal(self.free, dead)
        else:
            await asyncio.to_thread(self.free, dead)

    def free(self, dead: bool = True) -> None:
        """Give everything back; may block. A uid pair goes to another sandbox only if nothing has it any more.

        Harmless when repeated: the first call has done it all.
        """
        if self._freed:
            return
        self._freed = True
        if self.housing is not None and not self.housing.remove():
            dead = False
        if self.group is not None and not self.group.remove():
            dead = False
        if self.lease is not None:
            self.lease.release()
        if self.pair is not None:
            self.pair.release() if dead else _TAKEN.append(self.pair)
