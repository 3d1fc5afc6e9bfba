"""The spot's Docker engine: whether it answers, looked at every few seconds, and the sweep of what is ours in it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from faaspot_runner.docker.engine import Engine, Owner
from faaspot_runner.docker.image import sweep_images
from faaspot_runner.errors import EngineError

log = logging.getLogger(__name__)

LOOK_SECONDS = 5.0


class EngineWatch:
    """`problem`: why the runtimes of type docker are not offered now, None while the engine answers.

    `kept`: whether the platform still has an environment of that name; images of others are removed.
    """

    def __init__(self, engine: Engine, owner: Owner, kept: Callable[[str], bool]) -> None:
        self.engine = engine
        self.owner = owner
        self.problem: str | None = "it was not looked at yet"
        self._kept = kept

    def begin(self) -> None:
        """Look for the first time, and sweep what an earlier spot left. May block."""
        self.look()
        if self.problem is None:
            self._sweep()

    def look(self) -> None:
        """Look once. May block."""
        try:
            told = self.engine.examine()
        except EngineError as error:
            problem: str | None = str(error)
        else:
            system = told.get("OSType")
            problem = None if system == "linux" else f"The Docker engine runs {system} containers, not Linux ones."
        if problem != self.problem:
            log.info("the Docker engine answers" if problem is None else problem)
        self.problem = problem

    async def run(self) -> None:
        """For ever."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            await asyncio.to_thread(self.look)

    def end(self) -> None:
        """Sweep at the spot's end, and let go of the engine. May block."""
        if self.problem is None:
            self._sweep()
        self.engine.close()

    def _sweep(self) -> None:
        try:
            left = self.engine.sweep(self.owner)
            sweep_images(self.engine, self.owner, self._kept)
        except EngineError as error:
            log.warning("the Docker engine could not be swept: %s", error)
            return
        if left:
            log.info("%d containers of an earlier run were removed", left)
