"""Plays the other side of a conversation: no server, no clock."""

from __future__ import annotations

import json
from typing import Any, TypeVar

from faaspot._calls import Conversation, Pause, Request, Response

T = TypeVar("T")


def answer(status: int = 200, body: Any = None, *, content: bytes | None = None, **headers: str) -> Response:
    """An answer; header names with `_` for `-`."""
    return Response(
        status=status,
        reason="SAID",
        headers={name.replace("_", "-"): value for name, value in headers.items()},
        content=json.dumps(body).encode() if content is None else content,
        url="http://platform/api/thing",
    )


class Played:
    """The value of a conversation that got `answers` (an exception is thrown in), and the steps that it took."""

    def __init__(self, conversation: Conversation[T], *answers: Response | Exception) -> None:
        self.requests: list[Request] = []
        self.pauses: list[float] = []
        self.left = list(answers)
        self.value: Any = self._play(conversation)

    def _play(self, conversation: Conversation[T]) -> T:
        try:
            step = next(conversation)
            while True:
                if isinstance(step, Pause):
                    self.pauses.append(step.seconds)
                    step = conversation.send(None)
                    continue
                self.requests.append(step)
                given = self.left.pop(0)
                step = conversation.throw(given) if isinstance(given, Exception) else conversation.send(given)
        except StopIteration as stop:
            value: T = stop.value
            return value
