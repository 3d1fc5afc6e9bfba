"""Sandboxes that stand ready before anybody needs them: all walls up, packages imported, no code in them yet.

A blank is made of what a deployment's own start would be made of, code and context left out, and is given to one
deployment whole: nobody had it before, nobody shares it. So it is the same sandbox that this deployment would have got
later, and what its packages do in it they would do anyway. Which blanks are made is learned from use: a start that
found none asks for the like of it, and one more of a kind stands ready from then on. What is not asked for again for a
while goes, what no version that is there has asked for goes at once, and all of them when memory is short.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import Awaitable, Callable, Collection, Coroutine
from dataclasses import dataclass, field

from faaspot_runner.connectors.beginnings import leading_modules
from faaspot_runner.connectors.zygote import ZygoteSandbox
from faaspot_runner.contract import SandboxSpec
from faaspot_runner.errors import EngineError, SandboxError
from faaspot_runner.sandbox.pressure import free_share
from faaspot_runner.sandbox.spec import Material

log = logging.getLogger(__name__)

IDLE_SECONDS = 600.0
ROUND_SECONDS = 5.0
"""Between two looks at what nobody asks for, and at the machine's memory."""
LEAST_FREE = 0.15
"""Of the machine's memory: with less than this share free there are no blanks."""
OPEN_SECONDS = 60.0
WRITE_SECONDS = 5.0
PAUSE_SECONDS = 0.05
"""Before the next is made: the run that took the last one comes first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stock:
    """How many blanks: `first` of one kind, up to `most` where starts come so close on each other that there were none.

    `at_once`: so many are being made at a time, of all kinds: they have the processors in common with what runs.
    """

    first: int = 2
    most: int = 8
    at_once: int = 2


@dataclass(frozen=True, slots=True)
class Waiting:
    """That a sandbox gets its code later, over the socket `code`, and imports `modules` until then."""

    code: int
    modules: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What a blank is made of. `spec` and `material` are those of a deployment, without what is only its own."""

    spec: SandboxSpec
    material: Material
    modules: tuple[str, ...]

    @classmethod
    def of(cls, spec: SandboxSpec, material: Material) -> Recipe | None:
        """That of a deployment version, None if none can be made ahead."""
        if spec.limits.egress is not None:
            return None  # a list has a resolver of its own, which costs more than a start saves
        try:
            modules = leading_modules(material.source()) if material.environment else ()
        except OSError:
            return None
        anybodys = SandboxSpec(
            version_id="", deployment="", version=0, runtime=spec.runtime, python=spec.python, code="",
            environment=spec.environment, limits=spec.limits, reuse=spec.reuse,
        )  # fmt: skip
        bare = Material(code=b"", python=material.python, environment=material.environment)
        return cls(spec=anybodys, material=bare, modules=modules)


@dataclass(slots=True, kw_only=True)
class Blank:
    """One that stands ready. `code`: where its holder gets the code from."""

    sandbox: ZygoteSandbox
    code: socket.socket

    async def become(self, spec: SandboxSpec, code: bytes) -> ZygoteSandbox:
        """The sandbox of that version, which imports the code now. Raises OSError if it has died, and stops it."""
        loop = asyncio.get_running_loop()
        try:
            with self.code:
                async with asyncio.timeout(WRITE_SECONDS):
                    await loop.sock_sendall(self.code, code + b".")
                    self.code.shutdown(socket.SHUT_WR)
                    if not await loop.sock_recv(self.code, 1):
                        raise ConnectionResetError("the sandbox has died")
            self.sandbox.load(spec)
        except BaseException:
            await self.sandbox.stop()
            raise
        return self.sandbox


@dataclass(slots=True)
class _Kind:
    """`users`: ids of the versions that asked for one."""

    used: float
    wanted: int
    users: set[str] = field(default_factory=set)
    ready: list[Blank] = field(default_factory=list)
    making: int = 0
    spoilt: bool = False


Open = Callable[[SandboxSpec, Material, Waiting | None], Awaitable[ZygoteSandbox]]
"""Makes a sandbox, which then imports. Raises SandboxError."""


class Blanks:
    """The sandboxes of one runtime, blanks or not, on one event loop. `kinds`: of blanks; 0: there are none."""

    def __init__(self, opener: Open, *, kinds: int, stock: Stock | None = None) -> None:
        self._open = opener
        self._most = kinds
        self._stock = stock or Stock()
        self._kinds: dict[Recipe, _Kind] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._making: set[asyncio.Task[None]] = set()
        self._turn = asyncio.Semaphore(self._stock.at_once)
        self._round: asyncio.Task[None] | None = None

    @property
    def environments(self) -> frozenset[str]:
        """Names of the environments that blanks have mounted."""
        return frozenset(each.spec.environment for each in self._kinds if each.spec.environment)

    @property
    def standing(self) -> tuple[int, int]:
        """How many stand ready, and how many are being made."""
        kinds = self._kinds.values()
        return sum(len(each.ready) for each in kinds), sum(each.making for each in kinds)

    async def open(self, spec: SandboxSpec, material: Material, deadline: float) -> ZygoteSandbox:
        """A sandbox of that version, which has imported its module: a blank if one is ready. Raises SandboxError."""
        started = time.monotonic()
        recipe = Recipe.of(spec, material)
        made = await self._given(recipe, spec, material) or await self._open(spec, material, None)
        try:
            await made.ready(deadline, started)
        finally:
            if recipe is not None:
                self._refill(recipe)
        return made

    def take(self, recipe: Recipe, version_id: str) -> Blank | None:
        """One that is ready, for that version; None if there is none."""
        if not self._most:
            return None
        kind = self._kinds.get(recipe)
        if kind is None:
            kind = self._new(recipe)
        elif not kind.ready:
            kind.wanted = min(kind.wanted + 1, self._stock.most)
        kind.used = time.monotonic()
        kind.users.add(version_id)
        while kind.ready:
            blank = kind.ready.pop(0)
            if blank.sandbox.alive():
                return blank
            self._drop(blank)
        return None

    def release(self, version_ids: Collection[str]) -> None:
        """These versions are gone: what nobody else has asked for goes with them."""
        for kind in self._kinds.values():
            kind.users.difference_update(version_ids)
        self._let_go([each for each, kind in self._kinds.items() if not kind.users])

    async def close(self, *, starts: bool = True) -> None:
        """Stop them all, also what is being made. `starts`: wait also for the end of that."""
        self._most = 0
        for task in self._making:
            task.cancel()
        self._let_go(list(self._kinds))
        if self._round is not None:
            self._round.cancel()
        while left := self._tasks if starts else self._tasks - self._making:
            await asyncio.gather(*left, return_exceptions=True)

    # ------------------------------------------------------------ inside

    async def _given(self, recipe: Recipe | None, spec: SandboxSpec, material: Material) -> ZygoteSandbox | None:
        """A blank that gets this version's code, None if there is none."""
        blank = self.take(recipe, spec.version_id) if recipe is not None else None
        if blank is None:
            return None
        try:
            return await blank.become(spec, material.source())
        except OSError as error:
            log.info("a blank died as it was needed: %s", error)
            return None

    def _refill(self, recipe: Recipe) -> None:
        """Have the ones that were taken replaced."""
        kind = self._kinds.get(recipe)
        if kind is None or kind.spoilt or free_share() < LEAST_FREE:
            return
        for _ in range(kind.wanted - len(kind.ready) - kind.making):
            kind.making += 1
            task = self._task(self._make(recipe, kind))
            self._making.add(task)
            task.add_done_callback(self._making.discard)

    def _new(self, recipe: Recipe) -> _Kind:
        if len(self._kinds) >= self._most:
            self._let_go([min(self._kinds, key=lambda each: self._kinds[each].used)])
        if self._round is None:
            self._round = asyncio.create_task(self._rounds(), name="rounds of blanks")
        kind = self._kinds[recipe] = _Kind(time.monotonic(), self._stock.first)
        return kind

    async def _make(self, recipe: Recipe, kind: _Kind) -> None:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        try:
            with theirs:
                await asyncio.sleep(PAUSE_SECONDS)
                async with self._turn:
                    if kind.spoilt or self._kinds.get(recipe) is not kind:
                        ours.close()  # nobody wants it any more, and others wait for their turn
                        return
                    waiting = Waiting(theirs.fileno(), recipe.modules)
                    sandbox = await self._open(recipe.spec, recipe.material, waiting)
                    await sandbox.blank(time.monotonic() + OPEN_SECONDS)
        except SandboxError as error:
            # Its packages may not be to be imported by themselves: its deployments start as if there were no blanks.
            kind.spoilt = not isinstance(error, EngineError)
            log.info("no blank of %s: %s", " ".join(recipe.modules), error)
            ours.close()
            return
        except BaseException:
            ours.close()
            raise
        finally:
            kind.making -= 1
        blank = Blank(sandbox=sandbox, code=ours)
        if self._kinds.get(recipe) is kind:
            kind.ready.append(blank)
        else:
            self._drop(blank)

    async def _rounds(self) -> None:
        while True:
            await asyncio.sleep(ROUND_SECONDS)
            now, short = time.monotonic(), free_share() < LEAST_FREE
            self._let_go([each for each, kind in self._kinds.items() if short or kind.used < now - IDLE_SECONDS])
            for kind in self._kinds.values():
                if kind.used < now - ROUND_SECONDS:
                    self._shrink(kind)

    def _shrink(self, kind: _Kind) -> None:
        """Nobody has asked for a while: one less."""
        kind.wanted = max(self._stock.first, kind.wanted - 1)
        for blank in kind.ready[kind.wanted :]:
            self._drop(blank)
        del kind.ready[kind.wanted :]

    def _let_go(self, recipes: list[Recipe]) -> None:
        for recipe in recipes:
            for blank in self._kinds.pop(recipe).ready:
                self._drop(blank)

    def _drop(self, blank: Blank) -> None:
        self._task(self._stop(blank))

    @staticmethod
    async def _stop(blank: Blank) -> None:
        blank.code.close()
        with contextlib.suppress(OSError):
            await blank.sandbox.stop()

    def _task(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
