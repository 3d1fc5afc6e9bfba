"""Callers that never pause, while something is done to the platform."""

from __future__ import annotations

import contextlib
import http.client
import json
import threading
from collections import Counter

from tests.platforms import Platform, eventually

CODE = "import time\ndef main(args, context):\n    time.sleep(args.get('s', 0))\n    return args['n']\n"
"""Of the deployment `work`, which `Load` calls."""


class Load:
    """Callers of the deployment `work` that go on until they are stopped.

    Each is on connections that it keeps open as long as it may. `answers`: how many, by status; `accepted`: executions
    that were named to them; `wrong`: what no caller should get, which is all but a right answer and 503 with Retry-After.
    """

    def __init__(self, platform: Platform, callers: int = 6) -> None:
        self._platform = platform
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._call, args=(number,)) for number in range(callers)]
        self.answers: Counter[str] = Counter()
        self.accepted: list[str] = []
        self.wrong: list[object] = []
        self._lock = threading.Lock()

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        eventually(lambda: self.answers["200"] > 50, 30, "the load runs")
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)

    def _call(self, number: int) -> None:
        with contextlib.closing(
            http.client.HTTPConnection(self._platform.host, self._platform.port, timeout=60)
        ) as connection:
            self._call_on(connection, number)

    def _call_on(self, connection: http.client.HTTPConnection, number: int) -> None:
        headers = {"Authorization": f"Token {self._platform.token}", "Content-Type": "application/json"}
        turn = 0
        while not self._stop.is_set():
            turn += 1
            way = "" if turn % 3 == 0 else "sync/"
            try:
                connection.request("POST", f"/v1/{way}deployments/work/rpc/", json.dumps({"n": turn}), headers)
                answer = connection.getresponse()
                self._note(answer, answer.read(), way, turn)
            except (OSError, http.client.HTTPException) as error:
                with self._lock:
                    self.wrong.append((number, turn, repr(error)))
                connection.close()

    def _note(self, answer: http.client.HTTPResponse, body: bytes, way: str, turn: int) -> None:
        with self._lock:
            self.answers[str(answer.status)] += 1
            execution = answer.headers["Execution-Id"]
            if execution is not None:
                self.accepted.append(execution)
            if answer.status == 503 and answer.headers["Retry-After"]:
                return
            if answer.status != 200 or (way and json.loads(body) != turn):
                self.wrong.append((answer.status, dict(answer.headers), body[:500]))
