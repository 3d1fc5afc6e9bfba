"""The client without I/O: what to send, and what an answer means.

A *conversation* is a generator that yields `Request` and `Pause` steps, is sent the `Response` to each request (None
after a pause), and returns the call's value. Whoever drives it does the I/O (`_transport.Session`, `AsyncSession`), so
the sync and the async client share every line here, and tests need neither a server nor a clock.

A driver throws a `ConnectionFailed` into the conversation where a request got no answer.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias, TypeVar
from urllib.parse import parse_qs, quote, urlsplit

from faaspot import errors
from faaspot.errors import ApiError, BadAnswer, BadArgument, ConnectionFailed, FieldError, InternalError, RunError

T = TypeVar("T")

PREFIX = "/api/"
TRIES = 4
"""How often a request that is safe to repeat is sent before its failure is final."""
FIRST_BACKOFF = 0.2
LONGEST_BACKOFF = 30.0
TRY_AGAIN = frozenset({429, 502, 503, 504})


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One HTTP request. `path` is relative to the API's prefix and already percent-encoded.

    `payload` is the body's bytes; `file` has them where they are too many for the memory. `timeout` in seconds: how
    long an answer may take, None = the client's own. `safe`: may be sent again, nothing happens by it.
    """

    method: str
    path: str
    query: tuple[tuple[str, str], ...] = ()
    payload: bytes = b""
    file: Path | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    timeout: float | None = None
    safe: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """One whole HTTP answer. Header names are in lower case."""

    status: int
    reason: str
    headers: Mapping[str, str]
    content: bytes
    url: str

    @property
    def text(self) -> str:
        return self.content.decode("utf-8", "replace")


@dataclass(frozen=True, slots=True)
class Pause:
    """Do nothing for so many seconds."""

    seconds: float


Step: TypeAlias = Request | Pause
Conversation: TypeAlias = Generator[Step, Response | None, T]


# ---------------------------------------------------------------- making requests


def segment(name: str) -> str:
    """A name as one segment of a path; `..` and slashes cannot leave it. `BadArgument` for half a character."""
    text = str(name)
    try:
        return quote(text, safe="") if text not in (".", "..") else text.replace(".", "%2E")
    except UnicodeEncodeError:
        raise BadArgument(f"{text!r} is no name: it has half a character, which UTF-8 cannot hold") from None


def get(path: str, **query: str | None) -> Request:
    """A GET that changes nothing. Query values that are None are left out."""
    return Request(method="GET", path=path, query=_query(query), safe=True)


def send(method: str, path: str, body: Any = None, **more: Any) -> Request:
    """A request that does something; `body` goes as strict JSON (`BadArgument` if it is none), a file as it stands."""
    if isinstance(body, Path):
        return Request(method=method, path=path, file=body, **more)
    payload = b"" if body is None else strict_json(body)
    return Request(method=method, path=path, payload=payload, **more)


def strict_json(value: Any) -> bytes:
    """JSON text as the standard has it: no NaN, no Infinity. `BadArgument` for what JSON cannot hold."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        raise BadArgument(f"This cannot be sent as JSON: {error}") from error
    return text.encode("utf-8", "surrogatepass")


def mapping(value: Any, what: str) -> dict[str, Any]:
    """A dict of what the caller gave as `what`. `BadArgument` if it is no mapping."""
    if not isinstance(value, Mapping):
        raise BadArgument(f"{what} must be a mapping of names to values, not {type(value).__name__}")
    return dict(value)


def seconds(value: Any, what: str = "timeout") -> float:
    """A wait that the caller gave, not below 0. `BadArgument` if it is no number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
        raise BadArgument(f"{what} must be a number of seconds, not {value!r}")
    return max(0.0, float(value))


def _query(values: Mapping[str, str | None]) -> tuple[tuple[str, str], ...]:
    return tuple((name, value) for name, value in values.items() if value is not None)


# ---------------------------------------------------------------- conversations


def ask(request: Request) -> Conversation[Any]:
    """Send, again where that is safe, and decode: the JSON value, or the error that the answer means."""
    return decode((yield from exchange(request)))


def exchange(request: Request) -> Conversation[Response]:
    """Send a request; one that is safe up to `TRIES` times, with growing pauses or those that the server asks for."""
    for attempt in range(1, TRIES + 1):
        last = attempt == TRIES or not request.safe
        try:
            response = yield request
        except ConnectionFailed:
            if last:
                raise
            yield Pause(backoff(attempt))
            continue
        assert response is not None, "a request is answered by a response"
        if last or response.status not in TRY_AGAIN or "execution-id" in response.headers:  # it tells of an end
            return response
        yield Pause(min(retry_after(response) or backoff(attempt), LONGEST_BACKOFF))
    raise AssertionError("unreachable: the last try returns or raises")


def backoff(attempt: int) -> float:
    """Seconds before the next try, doubled each time and spread, so that many clients do not come back as one."""
    spread = random.uniform(0.75, 1.25)  # noqa: S311 - no secret
    return float(min(FIRST_BACKOFF * 2 ** (attempt - 1), LONGEST_BACKOFF) * spread)


def retry_after(response: Response) -> float | None:
    """The seconds of a Retry-After header; its date form is not used by the platform."""
    try:
        return max(0.0, float(response.headers["retry-after"]))
    except (KeyError, ValueError):
        return None


# ---------------------------------------------------------------- reading answers


def decode(response: Response) -> Any:
    """The JSON value of a success; raises the error that any other answer means."""
    value = _json(response)
    if 200 <= response.status < 300:
        return value
    raise error_of(response, value)


def _json(response: Response) -> Any:
    try:
        return json.loads(response.content)
    except ValueError:
        raise BadAnswer(_raw(response), status=response.status) from None


def _raw(response: Response) -> str:
    """An answer that is no JSON, as the old clients show it: status, the text, and whence it came."""
    text = response.text.strip()[:1000] or "(nothing)"
    if location := response.headers.get("location"):
        text = f"redirects to {location}"
    return f"{response.status} ({response.reason}): {text} [{response.url}]"


def error_of(response: Response, body: Any) -> ApiError:
    """The error that an answer outside 2xx means, by its `error_code`, else by its status."""
    problem = body if isinstance(body, Mapping) else {}
    message = problem.get("message") or problem.get("detail")
    if not isinstance(message, str):
        return BadAnswer(_raw(response), status=response.status)
    code = problem.get("error_code")
    kind = _class_of(code, response.status, problem)
    common: dict[str, Any] = {
        "status": response.status,
        "error_code": code,
        "errors": _fields(problem.get("errors")),
        "execution_id": problem.get("execution_id") or response.headers.get("execution-id"),
        "retry_after": retry_after(response),
    }
    if issubclass(kind, RunError):
        common.update(_remote(problem.get("error")))
    return kind(message, **common)


def _class_of(code: Any, status: int, problem: Mapping[str, Any]) -> type[ApiError]:
    if isinstance(code, str) and code in errors.BY_CODE:
        return errors.BY_CODE[code]
    if isinstance(problem.get("error"), Mapping):
        return RunError
    if status in errors.BY_STATUS:
        return errors.BY_STATUS[status]
    return InternalError if status >= 500 else ApiError


def _fields(values: Any) -> tuple[FieldError, ...]:
    """The bad fields of a problem; those in a shape that is not ours are left out, the message has them too."""
    return tuple(
        FieldError(field=str(each["field"]), message=str(each.get("message", "")), line=each.get("line"))
        for each in (values if isinstance(values, list) else [])
        if isinstance(each, Mapping) and "field" in each
    )


def _remote(error: Any) -> dict[str, str | None]:
    known = error if isinstance(error, Mapping) else {}
    return {"type": known.get("type"), "traceback": known.get("traceback")}


STATUS_OF_REASON = {"cancelled": 409, "no_spot": 503, "worker_lost": 503, "timeout": 504}
"""What a waiting call would have been answered; 500 for every other reason."""


def failure_of(record: Mapping[str, Any]) -> RunError:
    """The error that the record of a failed or cancelled execution means: the same as a call that waited gets.

    Only a build's is the whole text and not its one line: what a resolver has to say takes several.
    """
    reason = record.get("reason") or ("cancelled" if record.get("status") == "Cancelled" else "error")
    kind = errors.BY_CODE.get(reason, RunError)
    error = record.get("error") or {}
    said = (error.get("message"), record.get("output"))
    message = next(
        filter(None, said if reason == "build_failed" else said[::-1]), f"it ended as {record.get('status')}"
    )
    make = kind if issubclass(kind, RunError) else RunError
    return make(
        str(message),
        status=STATUS_OF_REASON.get(reason, 500),
        error_code=reason,
        execution_id=record.get("uuid"),
        **_remote(error),
    )


def uuid_of(value: Any) -> str:
    """The execution id in an answer: a bare string, a dict with `uuid`, or an old server's "Execution id: U"."""
    found = value.get("uuid") if isinstance(value, Mapping) else value
    if isinstance(found, str):
        return found.removeprefix("Execution id: ").strip()
    raise BadAnswer(f"Expected an execution id, got {value!r}")


def next_cursor(response: Response) -> str | None:
    """The cursor of the next page, from the Link header; only the cursor is taken, never another address."""
    for link in response.headers.get("link", "").split(","):
        address, _, relation = link.partition(";")
        if 'rel="next"' in relation.replace(" ", ""):
            return parse_qs(urlsplit(address.strip(" <>")).query).get("cursor", [None])[0]
    return None
