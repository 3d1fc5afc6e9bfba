"""The client without I/O: what is sent, what is sent again, what an answer means."""

from __future__ import annotations

import pytest

from faaspot import _calls, errors
from faaspot._calls import get, send
from tests.unit.sdk.played import Played, answer

PROBLEM = {"message": "no", "error_code": "not_found", "status": 404}


def test_a_get_is_sent_again_when_the_platform_was_not_reached() -> None:
    played = Played(_calls.ask(get("spots/")), errors.ConnectionFailed("refused"), answer(body=[1]))

    assert played.value == [1]
    assert len(played.requests) == 2
    assert len(played.pauses) == 1


def test_a_get_is_given_up_after_four_tries_with_growing_pauses() -> None:
    failures = [errors.ConnectionFailed("refused") for _ in range(_calls.TRIES)]
    conversation = _calls.ask(get("spots/"))

    with pytest.raises(errors.ConnectionFailed):
        Played(conversation, *failures)
    assert [_calls.backoff(attempt) < _calls.backoff(attempt + 2) for attempt in (1, 2, 3)] == [True, True, True]


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_what_does_something_is_never_sent_again(method: str) -> None:
    with pytest.raises(errors.ConnectionFailed):
        Played(_calls.ask(send(method, "spots/")), errors.ConnectionFailed("refused"))
    with pytest.raises(errors.Unavailable):
        Played(_calls.ask(send(method, "spots/")), answer(503, {"message": "away"}, retry_after="1"))


def test_the_pause_before_a_second_try_is_the_one_that_the_server_asks_for() -> None:
    away = answer(503, {"message": "away", "error_code": "queue_unavailable"}, retry_after="7")

    assert Played(_calls.ask(get("spots/")), away, answer(body=[])).pauses == [7.0]


def test_a_retry_after_that_is_no_number_of_seconds_or_far_too_long_is_not_obeyed() -> None:
    for said, longest in (("Fri, 21 Jul 2017 15:10:52 GMT", 1.0), ("86400", _calls.LONGEST_BACKOFF)):
        away = answer(429, {"message": "busy"}, retry_after=said)
        assert Played(_calls.ask(get("spots/")), away, answer(body=[])).pauses[0] <= longest


def test_the_last_bad_answer_is_the_error() -> None:
    away = answer(503, {"message": "the queue is away", "error_code": "queue_unavailable"}, retry_after="2")

    with pytest.raises(errors.QueueUnavailable, match="the queue is away") as caught:
        Played(_calls.ask(get("spots/")), *[away] * _calls.TRIES)
    assert (caught.value.status, caught.value.error_code, caught.value.retry_after) == (503, "queue_unavailable", 2.0)


def test_an_error_carries_the_bad_fields_and_the_execution() -> None:
    body = {
        "message": "two fields",
        "error_code": "invalid",
        "execution_id": "u-1",
        "errors": [{"field": "code", "message": "no main", "line": 3}, {"field": "memory", "message": "too small"}, 7],
    }

    with pytest.raises(errors.Invalid) as caught:
        _calls.decode(answer(400, body))
    assert caught.value.errors == (
        errors.FieldError(field="code", message="no main", line=3),
        errors.FieldError(field="memory", message="too small"),
    )
    assert caught.value.execution_id == "u-1"


def test_a_failed_run_is_a_run_error_with_the_remote_traceback() -> None:
    trace = 'Traceback (most recent call last):\n  File "function.py", line 2, in main\nKeyError: 1'
    body = {
        "message": "1",
        "error_code": "error",
        "error": {"type": "KeyError", "message": "1", "traceback": trace},
    }

    with pytest.raises(errors.RunError) as caught:
        _calls.decode(answer(500, body, execution_id="u-2"))
    error = caught.value
    assert (error.reason, error.type, error.traceback, error.execution_id) == ("error", "KeyError", trace, "u-2")
    assert trace in error.__notes__[0]


def test_an_unknown_code_falls_back_to_the_status_and_a_function_error_to_run_error() -> None:
    for status, body, kind in (
        (404, {"detail": "gone", "error_code": "brand_new"}, errors.NotFound),
        (418, {"message": "tea"}, errors.ApiError),
        (500, {"message": "oops"}, errors.InternalError),
        (500, {"message": "new reason", "error_code": "new", "error": {"type": "X"}}, errors.RunError),
    ):
        with pytest.raises(errors.ApiError) as caught:
            _calls.decode(answer(status, body))
        assert type(caught.value) is kind


def test_an_answer_that_is_not_the_platforms_shows_its_text_and_address() -> None:
    for given in (
        answer(502, content=b"<h1>Bad gateway</h1>"),
        answer(200, content=b"<h1>Welcome</h1>"),
        answer(400, body=[1, 2]),
        answer(400, body={"neither": 1}),
    ):
        with pytest.raises(errors.BadAnswer, match=r"\[http://platform/api/thing\]") as caught:
            _calls.decode(given)
        assert caught.value.status == given.status


def test_a_redirect_names_where_it_would_go() -> None:
    with pytest.raises(errors.BadAnswer, match="redirects to https://elsewhere/"):
        _calls.decode(answer(301, content=b"", location="https://elsewhere/"))


@pytest.mark.parametrize("sent", ["u-1", {"uuid": "u-1"}, "Execution id: u-1"])
def test_an_execution_id_is_found_in_every_form_that_servers_use(sent: object) -> None:
    assert _calls.uuid_of(sent) == "u-1"


def test_an_answer_without_an_execution_id_is_an_error() -> None:
    for sent in (None, {}, {"uuid": 3}, []):
        with pytest.raises(errors.BadAnswer, match="execution id"):
            _calls.uuid_of(sent)


@pytest.mark.parametrize(
    ("name", "segment"),
    [("a b/c", "a%20b%2Fc"), ("..", "%2E%2E"), (".", "%2E"), ("a?b#c", "a%3Fb%23c"), ("a.b", "a.b")],
)
def test_a_name_stays_one_segment_of_the_path(name: str, segment: str) -> None:
    assert _calls.segment(name) == segment


def test_half_a_character_is_no_name() -> None:
    with pytest.raises(errors.BadArgument):
        _calls.segment("\ud800")


def test_only_the_cursor_is_taken_from_a_link() -> None:
    link = '<https://elsewhere/api/executions/?limit=2&cursor=a%2Fb>; rel="next"'

    assert _calls.next_cursor(answer(link=link)) == "a/b"
    assert _calls.next_cursor(answer(link='<https://x/?cursor=1>; rel="prev"')) is None
    assert _calls.next_cursor(answer()) is None


def test_what_is_not_strict_json_is_not_sent() -> None:
    for wrong in (float("nan"), object()):
        with pytest.raises(errors.BadArgument, match="JSON") as caught:
            send("POST", "x", {"a": wrong})
        assert isinstance(caught.value, ValueError)
        assert isinstance(caught.value, TypeError)
    assert send("POST", "x", {"a": "ü"}).payload == '{"a":"ü"}'.encode()


def test_the_record_of_a_failure_becomes_the_error_that_its_reason_means() -> None:
    for reason, kind, status in (
        ("oom", errors.OutOfMemory, 500),
        ("cancelled", errors.Cancelled, 409),
        ("timeout", errors.RunTimedOut, 504),
        ("worker_lost", errors.WorkerLost, 503),
        ("words", errors.RunError, 500),
    ):
        error = _calls.failure_of({"uuid": "u", "status": "Failure", "reason": reason, "output": "why"})
        assert type(error) is kind
        assert (error.message, error.error_code, error.execution_id, error.status) == ("why", reason, "u", status)
    assert type(_calls.failure_of({"status": "Cancelled"})) is errors.Cancelled
