"""A thread's own connection to Redis, for what each run does: commands go out and answers come in, nothing around it.

The client of redis-py takes a connection out of a pool and looks whether it is alive, for each command; that costs as
much as the command. Everything that is not done for each run uses the client.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import redis

from faaspot_runner.contract.scripts import digest


class _Here(threading.local):
    """What this thread has: a connection to each server, whoever asks over it."""

    def __init__(self) -> None:
        self.connections: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()
        """By the client's pool."""


_here = _Here()


class Lines:
    """Connections like the client's own, one a thread, made at its first command. Closed when the thread ends."""

    def __init__(self, client: redis.Redis) -> None:
        self._pool = client.connection_pool

    def ask(self, *command: Any) -> Any:
        """The answer to one command. Raises redis.RedisError.

        Sent a second time on a new connection if the old one turns out to be dead: like a restart of the server, an
        answer that was lost is not seen by the caller, who must only ask what may be asked twice.
        """
        connection = self._connection()
        try:
            return self._exchanged(connection, command)
        except redis.ConnectionError:
            return self._exchanged(connection, command)

    def _connection(self) -> Any:
        connection = _here.connections.get(self._pool)
        if connection is None:
            connection = _here.connections[self._pool] = self._pool.make_connection()
        return connection

    @staticmethod
    def _exchanged(connection: Any, command: Sequence[Any]) -> Any:
        try:
            connection.connect()  # none if it is; by itself a command would not ask Sentinels where to
            connection.send_packed_command(connection.pack_command(*command), check_health=False)
            answer = connection.read_response()
        except redis.ResponseError:
            raise
        except BaseException:
            connection.disconnect()  # whatever still comes on it is the answer to this, not to the next
            raise
        return answer


class Script:
    """A Lua script, sent whole only to a server that does not know it yet."""

    def __init__(self, lines: Lines, text: str) -> None:
        self._lines = lines
        self._text = text
        self._digest = digest(text)

    def __call__(self, keys: Sequence[str], args: Sequence[Any]) -> Any:
        """Its answer. Raises redis.RedisError, also where only the platform may give the server scripts: it will."""
        try:
            return self._call(keys, args)
        except redis.exceptions.NoScriptError:
            self._lines.ask("SCRIPT", "LOAD", self._text)
            return self._call(keys, args)

    def _call(self, keys: Sequence[str], args: Sequence[Any]) -> Any:
        return self._lines.ask("EVALSHA", self._digest, len(keys), *keys, *args)
