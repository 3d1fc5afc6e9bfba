"""Callbacks over a real database and a real receiver: told once it has ended, again until it is heard, never lost."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from faaspot_api.domain import callbacks as rules
from faaspot_api.domain.model import Principal, RunOptions
from faaspot_api.errors import Invalid, NotFound
from faaspot_api.services import Policy, courier
from faaspot_api.services.callbacks import CallbackSecrets
from faaspot_api.store import callbacks
from faaspot_api.store.moments import SECOND
from tests.control_plane import ADMIN, ANN, EVE, Plane, control_plane, failed
from tests.platforms import eventually
from tests.receivers import Receiver, receiving

LOOPBACK = (ip_network("127.0.0.0/8"),)


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[Plane]:
    with control_plane(tmp_path, callback_networks=LOOPBACK, callback_seconds=1.0) as plane:
        plane.create()
        plane.create("anns", who=ANN)
        yield plane


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as running:
        yield running


def run(plane: Plane, url: str | None, who: Principal = ADMIN, name: str = "hello") -> str:
    return plane.services.executions.run(who, name, '{"a": 1}', RunOptions(callback=url)).uuid


def end(plane: Plane, **more: Any) -> None:
    request = plane.take()
    plane.start(request)
    plane.finish(request, **more)


def tell(plane: Plane) -> None:
    """One round, and the end of all that it began."""
    plane.services.courier.round()
    eventually(lambda: plane.services.courier.telling == 0, 10)


def due_now(plane: Plane, uuid: str) -> None:
    """Let the pause before the next try be over."""
    with plane.store.write() as transaction:
        row = callbacks.find(transaction, uuid)
        assert row is not None
        assert row.due is not None
        assert callbacks.claim(transaction, row, 1)


def test_the_end_is_told_with_the_record_and_a_signature(plane: Plane, receiver: Receiver) -> None:
    uuid = run(plane, receiver.url + "/hook")
    tell(plane)
    assert receiver.told == []
    assert plane.services.callbacks.of(ADMIN, uuid).status == "waiting"
    end(plane)
    tell(plane)
    (told,) = receiver.told
    assert told.path == "/hook"
    assert told.json["type"] == "execution.ended"
    data = told.json["data"]
    assert (data["uuid"], data["status"], data["output"], data["reason"]) == (uuid, "Success", 42, None)
    assert "args" not in data
    assert told.is_signed_by(plane.services.callbacks.secret(ADMIN))
    assert not told.is_signed_by(plane.services.callbacks.secret(ANN))
    log = plane.services.callbacks.of(ADMIN, uuid)
    assert (log.status, log.origin, log.next) == ("delivered", receiver.url, None)
    assert [(each.status, each.error) for each in log.tries] == [(204, None)]
    tell(plane)
    assert len(receiver.told) == 1


def test_every_end_is_told_whatever_it_is(plane: Plane, receiver: Receiver) -> None:
    failing, cancelled = run(plane, receiver.url), run(plane, receiver.url)
    end(plane, **failed("oom"))
    plane.services.executions.cancel(ADMIN, cancelled)
    tell(plane)
    ends = {told.json["data"]["uuid"]: told.json["data"]["reason"] for told in receiver.told}
    assert ends == {failing: "oom", cancelled: "cancelled"}


def test_who_does_not_hear_is_told_again_after_growing_pauses_and_then_given_up(plane: Plane) -> None:
    with receiving(lambda _number: 500) as receiver:
        uuid = run(plane, receiver.url)
        end(plane)
        tell(plane)
        log = plane.services.callbacks.of(ADMIN, uuid)
        assert (log.status, log.tries[0].status, log.tries[0].error) == ("pending", 500, "answered 500")
        assert log.next is not None
        assert 1.5 < (log.next - log.tries[0].at).total_seconds() < 4
        tell(plane)
        assert len(receiver.told) == 1, "not before its pause is over"
        for _ in range(rules.TRIES - 1):
            due_now(plane, uuid)
            tell(plane)
        log = plane.services.callbacks.of(ADMIN, uuid)
        assert (log.status, len(log.tries), log.next) == ("failed", rules.TRIES, None)
        assert len({told.headers["webhook-id"] for told in receiver.told}) == 1


def test_a_redirect_is_a_failure_and_nothing_is_told_elsewhere(plane: Plane) -> None:
    with receiving(lambda _number: 307) as receiver:
        uuid = run(plane, receiver.url)
        end(plane)
        tell(plane)
        assert [told.path for told in receiver.told] == ["/"]
        (tried,) = plane.services.callbacks.of(ADMIN, uuid).tries
        assert tried.error == "answered 307, and redirects are not followed"


def test_what_a_killed_courier_had_claimed_is_told_by_the_next_one(plane: Plane, receiver: Receiver) -> None:
    uuid = run(plane, receiver.url)
    end(plane)
    with plane.store.write() as transaction:
        callbacks.ripen(transaction, 1, 10)
        row = callbacks.find(transaction, uuid)
        assert row is not None
        assert callbacks.claim(transaction, row, int(4e15))
        assert not callbacks.claim(transaction, row, int(4e15)), "one of two has it"
    tell(plane)
    assert receiver.told == []
    due_now(plane, uuid)
    tell(plane)
    assert len(receiver.told) == 1


def test_a_silent_receiver_does_not_keep_others_waiting(plane: Plane, receiver: Receiver) -> None:
    with receiving(lambda _number: None, host="127.0.0.2") as silent:
        for _ in range(courier.MOST + 5):
            run(plane, silent.url)
            end(plane)
        heard = run(plane, receiver.url)
        end(plane)
        plane.services.courier.round()
        plane.services.courier.round()
        eventually(lambda: receiver.of(heard), 5)
        assert len(silent.told) <= courier.MOST_OF_HOST
        silent.go_on.set()
        eventually(lambda: plane.services.courier.telling == 0, 10)


def test_a_token_that_names_many_silent_hosts_does_not_keep_the_others_waiting(
    plane: Plane, receiver: Receiver
) -> None:
    with receiving(lambda _number: None, host="0.0.0.0") as silent:
        for number in range(courier.MOST + 3):
            run(plane, silent.url.replace("0.0.0.0", f"127.0.1.{number}"), who=ANN, name="anns")
            end(plane)
        heard = run(plane, receiver.url)
        end(plane)
        plane.services.courier.round()
        plane.services.courier.round()
        eventually(lambda: receiver.of(heard), 5)
        silent.go_on.set()
        eventually(lambda: plane.services.courier.telling == 0, 10)


def test_an_output_that_nests_too_deep_to_be_read_here_is_told_as_it_is(plane: Plane, receiver: Receiver) -> None:
    deep = "[" * 5000 + "]" * 5000
    run(plane, receiver.url)
    end(plane, output=deep)
    tell(plane)
    assert f'"output":{deep}'.encode() in receiver.told[0].body


def test_what_can_never_be_told_is_given_up_one_day(tmp_path: Path) -> None:
    def fail(*_: Any) -> int:
        raise ValueError("a defect")

    with control_plane(tmp_path) as plane:
        plane.create()
        uuid = run(plane, "https://example.com/")
        end(plane)
        broken = courier.Courier(plane.store, CallbackSecrets(plane.store), Policy(), fail)
        for n in range(rules.TRIES):
            if n:
                due_now(plane, uuid)
            broken.round()
            eventually(lambda: broken.telling == 0, 10)
        log = plane.services.callbacks.of(ADMIN, uuid)
        assert (log.status, log.tries[0].error) == ("failed", courier.DEFECT)


def test_a_name_that_turns_out_to_be_inside_is_not_reached_and_the_log_says_so(
    tmp_path: Path, receiver: Receiver
) -> None:
    with control_plane(tmp_path) as closed:
        closed.create()
        uuid = run(closed, receiver.url.replace("127.0.0.1", "localhost"))
        end(closed)
        tell(closed)
        assert receiver.told == []
        (tried,) = closed.services.callbacks.of(ADMIN, uuid).tries
        assert tried.error == "localhost is at an internal address, which callbacks do not reach"


def test_an_internal_address_is_refused_before_anything_is_accepted(tmp_path: Path) -> None:
    with control_plane(tmp_path) as closed:
        closed.create()
        with pytest.raises(Invalid, match="Callback-Url: must be a public address"):
            run(closed, "http://127.0.0.1:8000/")
        with pytest.raises(Invalid, match="callback_url: must be a public address"):
            closed.create("other", callback_url="http://10.0.0.1/")
        assert closed.queue.take("background") is None


def test_a_deployments_own_address_hears_of_each_run_and_is_signed_for_its_owner(
    plane: Plane, receiver: Receiver
) -> None:
    plane.update("anns", who=ANN, callback_url=receiver.url)
    for url in (None, receiver.url + "/other", ""):
        run(plane, url, who=EVE, name="anns")
        end(plane)
    tell(plane)
    paths = sorted((told.path, told.is_signed_by(plane.services.callbacks.secret(ANN))) for told in receiver.told)
    assert paths == [("/", True), ("/other", False)]
    plane.update("anns", who=ANN, callback_url="")
    uuid = run(plane, None, name="anns")
    with pytest.raises(NotFound, match="Nobody is told"):
        plane.services.callbacks.of(ADMIN, uuid)


def test_the_log_is_for_those_who_see_the_execution(plane: Plane, receiver: Receiver) -> None:
    uuid = run(plane, receiver.url)
    with pytest.raises(NotFound):
        plane.services.callbacks.of(ANN, uuid)


def test_a_long_output_is_left_to_the_record(plane: Plane, receiver: Receiver) -> None:
    run(plane, receiver.url)
    end(plane, output=json.dumps("x" * (courier.MAX_OUTPUT + 1)))
    tell(plane)
    data = receiver.told[0].json["data"]
    assert (data["output"], data["output_omitted"]) == (None, True)


def test_rounds_go_on_until_they_are_stopped(plane: Plane, receiver: Receiver) -> None:
    stop = threading.Event()
    thread = threading.Thread(target=courier.run, args=(plane.services.courier, stop, 0.02))
    thread.start()
    uuid = run(plane, receiver.url)
    end(plane)
    eventually(lambda: receiver.of(uuid), 5)
    stop.set()
    thread.join(5)
    assert not thread.is_alive()
    eventually(lambda: plane.services.callbacks.of(ADMIN, uuid).status == "delivered", 5)
    first = plane.services.callbacks.of(ADMIN, uuid).tries[0]
    assert first.at.timestamp() * SECOND > 0
