"""Every quirk of the published clients (fas 0.0.13, fas 0.1.5, faaspot 0.1.6) in this one place.

They are real programs that nobody will change: Python 2.7, one prefix each, no redirects, exactly 200, an empty body
under a JSON content type, JSON under a form content type, lists as JSON text inside JSON, strings for numbers. What
they send is turned into what the rest of the API means; nothing else knows that they exist. `W` numbers in comments
name the rules of the wire that each of them keeps.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator
from itertools import chain
from typing import Any, NoReturn

from flask import Request

from faaspot_api.domain import encoded
from faaspot_api.errors import ApiError, FieldError, Invalid
from faaspot_api.http import gateway, reading, strict
from faaspot_api.http.reading import Fields
from faaspot_runner.contract import MAX_ARGS_BYTES

# ---------------------------------------------------------------- addresses

PREFIXES = ("/v1", "/api")
"""W4: 0.0.13 asks under /api/, the others under /v1/. The first is the one we document."""
ALIASES = {"deployments": "functions", "spots": "nodes"}
"""W4: our word -> the later clients' word."""
_WITHIN_AN_APPLICATION = {
    "functions": {
        "/<name>": "/<member:name>",
        "/<name>/rpc": "/<member:name>/rpc",
        "/<name>/bulk_rpc": "/<member:name>/bulk_rpc",
    },
    "nodes": {"/<ip>": "/<ip>", "/replace/<ip>": "/replace/<ip>"},
}


def addresses(path: str) -> Iterator[str]:
    """Every address of a canonical path such as ``/deployments/<name>/rpc/``, the documented one first.

    None ends in a slash: each is served with and without one, and never by a redirect, which would lose an old
    client's method and body (W8).
    """
    canonical = path.rstrip("/")
    spellings = [canonical]
    for word, alias in ALIASES.items():
        if f"/{word}" in canonical:
            other = canonical.replace(f"/{word}", f"/{alias}", 1)
            spellings.append(other)
            head, tail = other.split(f"/{alias}", 1)
            if tail in _WITHIN_AN_APPLICATION[alias]:
                member = _WITHIN_AN_APPLICATION[alias][tail]
                spellings.append(f"{head}/{alias}/<application:application>{member}")
    for prefix in PREFIXES:
        yield from (prefix + spelling for spelling in spellings)


def collection_of_application(path: str) -> Iterator[str]:
    """Addresses of a collection inside 0.1.6's application segment: ``/functions/<app>`` for ``/deployments/``."""
    alias = ALIASES[path.strip("/")]
    yield from (f"{prefix}/{alias}/<application:application>" for prefix in PREFIXES)


APPLICATION = r"(?!replace\Z)[^/]{1,200}"
"""W4: what 0.1.6 may put before a name ("None" when its profile has no application). The platform has one application,
so the word is taken and means nothing. ``nodes/replace/IP`` is no spot of an application `replace`."""
MEMBER = r"(?!(?:rpc|bulk_rpc|versions|rollback|bulk|rerun)\Z)[^/]+"
"""A name or id where one of our own words could stand: ``functions/x/rpc`` is no function `rpc` of an application `x`,
and ``executions/bulk`` is no execution."""


def lists_application(request: Request, alias: str) -> bool:
    """Whether ``GET functions/x/`` asks for all of application `x` (0.1.6) and not for the function `x`.

    Only 0.1.6 sends the collection's slash and, as on all its requests, a JSON content type without a body (W6).
    """
    return (
        request.path.endswith("/")
        and request.path.split("/")[2] == alias
        and request.mimetype == "application/json"
        and not request.content_length
    )


# ---------------------------------------------------------------- what they send


def fields(request: Request, limit: int) -> Fields:
    """The named values of a body: JSON, a form, or JSON that calls itself a form. Empty means none (W6, W7)."""
    value, typed = _value(request, limit)
    if not isinstance(value, dict):
        strict.refuse('must be a JSON object, for example {"name": "hello"}')
    return Fields(values=value, typed=typed)


def _value(request: Request, limit: int) -> tuple[Any, bool]:
    raw = reading.read(request, limit)
    if not raw.strip():
        return {}, True
    if _is_form(request, raw):
        return reading.pairs(raw, field="body"), False
    return strict.load(raw), True


def _is_form(request: Request, raw: bytes) -> bool:
    """W7: curl calls any data a form; what begins like JSON is JSON."""
    return request.mimetype == "application/x-www-form-urlencoded" and not raw.lstrip().startswith((b"{", b"["))


def run_args(request: Request, limit: int) -> str | Iterator[bytes]:
    """The args of one run as JSON text: the body's fields and the query's, both may be empty (W18 to W20).

    A JSON body alone is handed on as it came: on the hot path nothing is encoded again. One of more than `limit` bytes
    comes in pieces, and what it holds is not looked into.
    """
    query = reading.pairs(request.query_string) if request.query_string else {}
    raw = reading.body(request, limit) if request.method != "GET" else b""
    if not isinstance(raw, bytes):
        return _large_args(request, raw, query)
    if not raw.strip():
        return strict.dump(query) if query else "{}"
    if _is_form(request, raw):
        return strict.dump(_merged(reading.pairs(raw, field="body"), query))
    args = strict.load(raw)
    if not isinstance(args, dict):
        _refuse_others()
    return strict.dump(_merged(args, query)) if query else raw.decode()


def _large_args(request: Request, pieces: Iterator[bytes], query: dict[str, Any]) -> Iterator[bytes]:
    """The pieces again, if they begin as a JSON object does."""
    first = next(pieces)
    try:
        if not first.lstrip().startswith(b"{"):
            if _is_form(request, first):
                raise reading.too_large("args", MAX_ARGS_BYTES)
            _refuse_others()
        if query:
            strict.refuse(f"cannot go with a body of more than {MAX_ARGS_BYTES // reading.MB} MB", field="query")
    except ApiError:
        gateway.discard(request.environ)
        raise
    return chain((first,), pieces)


def _refuse_others() -> NoReturn:
    strict.refuse('must be a JSON object of parameters, for example {"name": "user1"}; many runs go to bulk_rpc')


def _merged(args: dict[str, Any], query: dict[str, Any]) -> dict[str, Any]:
    for name in args.keys() & query.keys():
        strict.refuse("is said in the body and in the query; say it once", field=name)
    return args | query


def items(request: Request, name: str, limit: int) -> list[Any]:
    """The list of a bulk request: the list itself (0.1.5), or ``{name: list or its JSON text}`` (0.0.13) (W21, W24)."""
    value, _ = _value(request, limit)
    if isinstance(value, dict):
        unknown = sorted(value.keys() - {name})
        if unknown or name not in value:
            raise Invalid.fields(
                *(FieldError(field=key, message="unknown field") for key in unknown),
                *(() if name in value else (FieldError(field=name, message="is required, or send a JSON list"),)),
            )
        value = strict.load(value[name], field=name) if isinstance(value[name], str) else value[name]
    if not isinstance(value, list):
        strict.refuse("must be a list", field=name)
    return value


def decoded(name: str, text: str) -> str:
    """The text meant by an encoded or raw field (W11). Raises Invalid that names it."""
    try:
        return encoded.decode(text)
    except ValueError as error:
        raise Invalid.fields(FieldError(field=name, message=str(error))) from error


def flag(text: Any) -> bool:
    """`True` or `False` as Python prints it (W22), in any case. Raises ValueError."""
    match str(text).lower():
        case "true" | "1":
            return True
        case "false" | "0":
            return False
    raise ValueError("must be true or false")


# ---------------------------------------------------------------- who they are

_LITERAL_BYTES = re.compile(r"b'(.*)'|b\"(.*)\"")


def credentials(header: str) -> tuple[str | None, str] | None:
    """(user or None, token) of an Authorization header, None if it holds neither form (W9).

    Two headers arrive joined by a comma; then the token wins, as it does in the clients themselves. `Bearer` is what
    programs say that know nothing of faaspot (RFC 6750), and means the same as `Token`.
    """
    found: tuple[str | None, str] | None = None
    for part in header.split(","):
        scheme, _, text = part.strip().partition(" ")
        if scheme.lower() in ("token", "bearer") and text.strip():
            return None, text.strip()
        if scheme.lower() == "basic" and found is None:
            found = _basic(text.strip())
    return found


def _basic(text: str) -> tuple[str, str] | None:
    # Under Python 3 the 0.1.5 client sends the repr of its bytes: Basic b'Ym9i...'.
    literal = _LITERAL_BYTES.fullmatch(text)
    if literal is not None:
        text = literal[1] or literal[2] or ""
    standard = text.replace("-", "+").replace("_", "/").rstrip("=")
    try:
        plain = base64.b64decode(standard + "=" * (-len(standard) % 4), validate=True).decode()
    except (binascii.Error, ValueError):
        return None
    user, colon, password = plain.partition(":")
    return (user, password) if colon and password else None


# ---------------------------------------------------------------- what they read


def code(text: str) -> str:
    """W15: `code` must be in a deployment's answer, and encoded, because the client decodes it unasked."""
    return encoded.encode(text)


def changed(execution_id: str) -> dict[str, str]:
    """W16, W17: after update and delete the old clients wait only on an object; a bare id makes them fail."""
    return {"uuid": execution_id}
