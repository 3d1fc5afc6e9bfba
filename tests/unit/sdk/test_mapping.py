"""What `map` sends and when, by scripted answers: so without a server and without a clock."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from faaspot import _mapping
from faaspot._calls import Conversation, Pause, Request, Response
from faaspot._mapping import Flow
from faaspot.errors import BadArgument, Overloaded, RunError, TooLarge
from tests.unit.sdk.played import answer

PATH = "deployments/d/bulk_rpc/"


class Platform:
    """Runs end in the order in which they came, when the first of a look is one of them; `most` items a request."""

    def __init__(self, *, most: int = 1000, refuse: int = 0) -> None:
        self.requests: list[Request] = []
        self.accepted: list[dict[str, Any]] = []
        self.most = most
        self.refuse = refuse

    def hold(self, conversation: Conversation[Any]) -> Any:
        given: Response | None = None
        try:
            while True:
                step = conversation.send(given)
                given = None if isinstance(step, Pause) else self.answer(step)
        except StopIteration as stop:
            return stop.value

    def answer(self, request: Request) -> Response:
        self.requests.append(request)
        body = json.loads(request.payload)
        if len(body) > self.most:
            return answer(413, {"message": "fewer", "error_code": "too_large"})
        if request.path == "executions/bulk":
            return answer(body=[self.record(uuid, ended=n < 10) for n, uuid in enumerate(body)])
        if self.refuse:
            self.refuse -= 1
            return answer(429, {"message": "wait", "error_code": "overloaded"})
        self.accepted += body
        return answer(body=[str(n) for n in range(len(self.accepted) - len(body), len(self.accepted))])

    def record(self, uuid: str, ended: bool) -> dict[str, Any]:
        args = self.accepted[int(uuid)]
        if not ended:
            return {"uuid": uuid, "status": "Started"}
        if args["n"] < 0:
            return {"uuid": uuid, "status": "Failure", "reason": "error", "output": "negative"}
        return {"uuid": uuid, "status": "Success", "output": args["n"]}

    def mapped(self, flow: Flow, count: int) -> Iterator[Any]:
        """As the loop in `deployments`."""
        for n in range(count):
            self.hold(flow.take({"n": n}))
            while flow.full:
                yield self.hold(flow.result())
        self.hold(flow.send())
        while flow.under_way:
            yield self.hold(flow.result())


def flow(look_ahead: int = 100, *, gap: float = 0.0) -> Flow:
    """A flow whose clock goes on by `gap` seconds between two looks."""
    times = iter(range(10**9))
    return Flow(PATH, look_ahead, False, False, clock=lambda: next(times) * gap)


def test_results_come_in_order_by_few_requests() -> None:
    platform = Platform()

    assert list(platform.mapped(flow(), 1000)) == list(range(1000))

    runs = [len(json.loads(each.payload)) for each in platform.requests if each.path == PATH]
    looks = [each for each in platform.requests if each.path != PATH]
    assert runs[:6] == [1, 2, 4, 8, 16, 32]
    assert len(runs) <= 30
    assert len(looks) <= 110, "ten ends an answer"
    assert {each.headers["Prefer"] for each in looks} == {"wait=20"}
    assert all((each.timeout or 0) > 20 and each.safe for each in looks)


def test_never_more_are_under_way_than_asked_for() -> None:
    platform, seen = Platform(), 0

    for seen, _ in enumerate(platform.mapped(flow(40), 500)):
        assert len(platform.accepted) - seen <= 40

    assert seen == 499


def test_items_that_come_slowly_are_run_at_once() -> None:
    platform, slow = Platform(), flow(gap=1.0)

    for n in range(5):
        platform.hold(slow.take({"n": n}))
        assert len(platform.accepted) == n + 1


def test_a_request_that_is_too_large_goes_in_halves() -> None:
    platform = Platform(most=7)

    assert list(platform.mapped(flow(), 100)) == list(range(100))

    keys = [each.headers["Idempotency-Key"] for each in platform.requests if each.path == PATH]
    assert len(set(keys)) == len(keys)
    with pytest.raises(TooLarge):
        list(Platform(most=0).mapped(flow(), 1))


def test_a_platform_without_room_gets_the_rest_when_some_are_through() -> None:
    platform = Platform()
    results = platform.mapped(flow(2), 6)
    assert next(results) == 0
    platform.refuse = 4  # as often as a request is sent again

    assert list(results) == [1, 2, 3, 4, 5]

    full = Platform(refuse=10)
    with pytest.raises(Overloaded):
        list(full.mapped(flow(), 1))


def test_what_was_accepted_before_the_rest_was_refused_is_not_run_again() -> None:
    """The batch goes in halves, and the platform takes the first half only."""
    platform = Platform(most=10)
    results = platform.mapped(flow(30), 60)
    first = [next(results) for _ in range(14)]
    taken = platform.answer

    def answer_(request: Request) -> Response:
        if request.path == PATH and 1 < len(json.loads(request.payload)) <= 10 and not platform.refuse:
            platform.refuse = 5  # the next one, as often as it is sent again
            platform.requests.append(request)
            platform.accepted += (items := json.loads(request.payload))
            return answer(body=[str(n) for n in range(len(platform.accepted) - len(items), len(platform.accepted))])
        return taken(request)

    platform.answer = answer_  # type: ignore[method-assign]
    assert first + list(results) == list(range(60))
    assert [each["n"] for each in platform.accepted] == list(range(60))


def test_a_platform_without_room_is_not_handed_more_and_more() -> None:
    """Results are taken first; and what was refused is asked for under the same key, since it may have been taken."""
    platform = Platform()
    results = platform.mapped(flow(100), 300)
    assert next(results) == 0
    platform.refuse = 8  # twice as often as a request is sent again

    assert list(results) == list(range(1, 300))

    runs = [each for each in platform.requests if each.path == PATH]
    keys = {each.headers["Idempotency-Key"]: each.payload for each in runs}
    assert all(keys[each.headers["Idempotency-Key"]] == each.payload for each in runs)
    assert len(runs) - len(keys) == 8, "each of them was another sending of the same"


def test_a_failed_run_raises_at_its_place_or_stands_in_it() -> None:
    platform, strict = Platform(), flow()
    for n in (1, -1):
        platform.hold(strict.take({"n": n}))
    platform.hold(strict.send())
    assert platform.hold(strict.result()) == 1
    with pytest.raises(RunError, match="negative") as caught:
        platform.hold(strict.result())
    assert caught.value.execution_id == "1"

    lenient = Flow(PATH, 1, True, False)
    platform.hold(lenient.take({"n": -1}))
    assert isinstance(platform.hold(lenient.result()), RunError)
    whole = Flow(PATH, 1, False, True)
    platform.hold(whole.take({"n": -1}))
    assert platform.hold(whole.result()).status == "Failure"


def test_what_is_no_mapping_is_named_by_its_number() -> None:
    platform, mixed = Platform(), flow()
    platform.hold(mixed.take({}))
    with pytest.raises(BadArgument, match="item 1 must be a mapping"):
        platform.hold(mixed.take([]))


def test_a_batch_stays_below_what_one_request_may_bring() -> None:
    platform = Platform()
    list(platform.mapped(flow(10_000), 5000))
    assert max(len(json.loads(each.payload)) for each in platform.requests if each.path == PATH) == _mapping.BATCH


def test_an_item_too_large_for_a_bulk_is_run_alone() -> None:
    class Small(Platform):
        def answer(self, request: Request) -> Response:
            if request.path == "deployments/d/rpc/":
                self.requests.append(request)
                self.accepted.append(json.loads(request.payload))
                return answer(body=str(len(self.accepted) - 1))
            return super().answer(request)

    platform = Small(most=0)
    flow_ = Flow(PATH, 1, False, False)
    platform.hold(flow_.take({"n": 7}))
    assert (platform.accepted, flow_.under_way) == ([{"n": 7}], True)
