"""The record of every run, build and spot task: read, wait for, cancel, run again, and what it wrote."""

from __future__ import annotations

import builtins
from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import datetime
from typing import Any, overload

from faaspot import _executions as calls
from faaspot._executions import Reference, Several
from faaspot._session import AsyncSession, Session
from faaspot.types import Callback, Execution, Rerun


class Executions:
    """``f.executions``, and ``f.executions()`` as the first FaaSpot documentation calls it."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def __call__(self) -> Executions:
        return self

    @overload
    def get(self, execution: Reference) -> Execution: ...
    @overload
    def get(self, execution: Several) -> builtins.list[Execution]: ...
    def get(self, execution: Reference | Several) -> Execution | builtins.list[Execution]:
        """The record of one execution, or of several."""
        found: Execution | builtins.list[Execution] = self._session.hold(calls.read(execution))
        return found

    def get_bulk(self, executions: Sequence[Reference]) -> builtins.list[Execution]:
        """The records of several executions, in the order asked for. `NotFound` names those that are unknown."""
        return self._session.hold(calls.fetch_bulk(executions))

    def list(
        self,
        include_completed: bool = False,
        deployment: str | None = None,
        *,
        status: str | None = None,
        reason: str | None = None,
        since: datetime | str | None = None,
        until: datetime | str | None = None,
        rerun: bool | None = None,
        limit: int = 100,
    ) -> builtins.list[Execution]:
        """The newest `limit` records.

        What has ended only with `include_completed`, or when `status` or `reason` is given. `rerun`: only what was run
        again, or False: what was not.
        """
        wanted = calls.filters(include_completed, deployment, status, reason, since, until, rerun)
        return self._session.hold(calls.newest(limit, wanted))

    def iterate(
        self,
        include_completed: bool = True,
        deployment: str | None = None,
        *,
        status: str | None = None,
        reason: str | None = None,
        since: datetime | str | None = None,
        until: datetime | str | None = None,
        rerun: bool | None = None,
    ) -> Iterator[Execution]:
        """All records, newest first, page by page."""
        filters = calls.filters(include_completed, deployment, status, reason, since, until, rerun)
        cursor: str | None = None
        while True:
            items, cursor = self._session.hold(calls.page(cursor, calls.PAGE, filters))
            yield from items
            if cursor is None:
                return

    def wait(self, execution: Reference, timeout: float | None = None) -> Execution:
        """The record once the execution has ended, however it ended. `WaitTimeout` after `timeout` seconds."""
        return self._session.hold(calls.until_ended(execution, timeout))

    def wait_bulk(self, executions: Sequence[Reference]) -> builtins.list[Execution]:
        """The records of several executions, in the order asked for, once all have ended, however they ended."""
        return self._session.hold(calls.all_ended(executions))

    def result(self, execution: Reference, timeout: float | None = None) -> Any:
        """What the function returned, once it has ended; raises its `RunError` if it failed."""
        return self._session.hold(calls.result(execution, timeout))

    def output(self, execution: Reference) -> Any:
        """The `output` of one that has ended, also where that is too long for its record."""
        return self._session.hold(calls.output(execution))

    def args(self, execution: Reference) -> Any:
        """The `args` of one, also where they are too long for its record."""
        return self._session.hold(calls.args(execution))

    def cancel(self, execution: Reference) -> Any:
        """Cancel it, queued or running; its record. `AlreadyEnded` if it has ended."""
        return self._session.hold(calls.cancel(execution))

    def callback(self, execution: Reference) -> Callback:
        """Who is told of its end, and every try so far. `NotFound` for one that nobody is told of."""
        return self._session.hold(calls.callback(execution))

    def rerun(self, execution: Reference) -> str:
        """Run it again, by its deployment as it stands now; the id of the new execution. Its own record stays."""
        return self._session.hold(calls.rerun(execution))

    def rerun_all(
        self,
        deployment: str | None = None,
        *,
        status: str | None = None,
        reason: str | None = None,
        since: datetime | str | None = None,
        until: datetime | str | None = None,
    ) -> builtins.list[Rerun]:
        """Run again what failed and was not run again before, newest first; what became of each.

        Without `status` ("Failure" or "Cancelled") and `reason` all failures.
        """
        return self._session.hold(calls.rerun_all(status, deployment, reason, since, until))

    def logs(self, execution: Reference) -> str:
        """What it has written to stdout and stderr so far, in order."""
        return self._session.hold(calls.log(execution))

    def follow(self, execution: Reference) -> Iterator[str]:
        """What it writes, as it writes it, until it ends."""
        return self._session.stream(calls.follow(execution))


class AsyncExecutions:
    """As `Executions`, on asyncio."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    def __call__(self) -> AsyncExecutions:
        return self

    @overload
    async def get(self, execution: Reference) -> Execution: ...
    @overload
    async def get(self, execution: Several) -> builtins.list[Execution]: ...
    async def get(self, execution: Reference | Several) -> Execution | builtins.list[Execution]:
        """The record of one execution, or of several."""
        found: Execution | builtins.list[Execution] = await self._session.hold(calls.read(execution))
        return found

    async def get_bulk(self, executions: Sequence[Reference]) -> builtins.list[Execution]:
        """The records of several executions, in the order asked for. `NotFound` names those that are unknown."""
        return await self._session.hold(calls.fetch_bulk(executions))

    async def list(
        self,
        include_completed: bool = False,
        deployment: str | None = None,
        *,
        status: str | None = None,
        reason: str | None = None,
        since: datetime | str | None = None,
        until: datetime | str | None = None,
        rerun: bool | None = None,
        limit: int = 100,
    ) -> builtins.list[Execution]:
        """The newest `limit` records.

        What has ended only with `include_completed`, or when `status` or `reason` is given. `rerun`: only what was run
        again, or False: what was not.
        """
        return await self._session.hold(
            calls.newest(limit, calls.filters(include_completed, deployment, status, reason, since, until, rerun))
        )

    async def iterate(
        self,
        include_completed: bool = True,
        deployment: str | None = None,
        *,
        status: str | None = None,
        reason: str | None = None,
        since: datetime | str | None = None,
        until: datetime | str | None = None,
        rerun: bool | None = None,
    ) -> AsyncIterator[Execution]:
        """All records, newest first, page by page."""
        filters = calls.filters(include_completed, deployment, status, reason, since, until, rerun)
        cursor: str | None = None
        while True:
            items, cursor = await self._session.hold(calls.page(cursor, calls.PAGE, filters))
            for item in items:
                yield item
            if cursor is None:
                return

    async def wait(self, execution: Reference, timeout: float | None = None) -> Execution:
        """The record once the execution has ended, however it ended. `WaitTimeout` after `timeout` seconds."""
        return await self._session.hold(calls.until_ended(execution, timeout))

    async def wait_bulk(self, executions: Sequence[Reference]) -> builtins.list[Execution]:
        """The records of several executions, in the order asked for, once all have ended, however they ended."""
        return await self._session.hold(calls.all_ended(executions))

    async def result(self, execution: Reference, timeout: float | None = None) -> Any:
        """What the function returned, once it has ended; raises its `RunError` if it failed."""
        return await self._session.hold(calls.result(execution, timeout))

    async def output(self, execution: Reference) -> Any:
        """The `output` of one that has ended, also where that is too long for its record."""
        return await self._session.hold(calls.output(execution))

    async def args(self, execution: Reference) -> Any:
        """The `args` of one, also where they are too long for its record."""
        return await self._session.hold(calls.args(execution))

    async def cancel(self, execution: Reference) -> Any:
        """Cancel it, queued or running; its record. `AlreadyEnded` if it has ended."""
        return await self._session.hold(calls.cancel(execution))

    async def callback(self, execution: Reference) -> Callback:
        """Who is told of its end, and every try so far. `NotFound` for one that nobody is told of."""
        return await self._session.hold(calls.callback(execution))

    async def rerun(self, execution: Reference) -> str:
        """Run it again, by its deployment as it stands now; the id of the new execution. Its own record stays."""
        return await self._session.hold(calls.rerun(execution))

    async def rerun_all(
        self,
        deployment: str | None = None,
        *,
        status: str | None = None,
        reason: str | None = None,
        since: datetime | str | None = None,
        until: datetime | str | None = None,
    ) -> builtins.list[Rerun]:
        """Run again what failed and was not run again before, newest first; what became of each.

        Without `status` ("Failure" or "Cancelled") and `reason` all failures.
        """
        return await self._session.hold(calls.rerun_all(status, deployment, reason, since, until))

    async def logs(self, execution: Reference) -> str:
        """What it has written to stdout and stderr so far, in order."""
        return await self._session.hold(calls.log(execution))

    def follow(self, execution: Reference) -> AsyncIterator[str]:
        """What it writes, as it writes it, until it ends."""
        return self._session.stream(calls.follow(execution))
