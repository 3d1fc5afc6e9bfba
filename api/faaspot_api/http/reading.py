"""Reading a request's body: never more of it than its limit, and always as one kind of value.

A body with a declared length above the limit is never kept, of a chunked one no more than the limit. The connection
closes after such an answer, since where the next request would start is unknown.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice
from typing import IO, Any
from urllib.parse import parse_qsl

from flask import Request

from faaspot_api.errors import FieldError, Invalid, TooLarge
from faaspot_api.http import gateway, strict
from faaspot_runner.contract import MAX_ARGS_BYTES
from faaspot_runner.contract.large import MAX_LARGE_BYTES

MB = 1024 * 1024
SMALL_BODY = 64 * 1024
"""Bodies that hold a few short fields."""
ARGS_BODY = MAX_ARGS_BYTES + 64 * 1024
PACKAGE_BODY = 32 * MB
"""A deployment: 4 MB of code, each byte at worst three when percent-encoded or six as JSON escapes."""
BULK_BODY = 64 * MB
MAX_FIELDS = 10_000
"""Fields of one form or query."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fields:
    """What a request says, by name. `typed`: it came as JSON; else every value is text."""

    values: dict[str, Any]
    typed: bool


def read(request: Request, limit: int) -> bytes:
    """The whole body. Raises TooLarge above `limit` bytes and Invalid if it breaks off."""
    length = request.content_length
    if length is not None and length > limit:
        gateway.discard(request.environ)
        raise too_large("body", limit)
    stream = request.environ["wsgi.input"]
    try:
        if length is not None:
            data: bytes = stream.read(length)
        elif request.environ.get("wsgi.input_terminated"):
            data = stream.read(limit + 1)  # chunked: the server ends the stream where the body ends
        else:
            return b""
    except gateway.BROKEN_BODY as error:
        raise Invalid.fields(FieldError(field="body", message=f"could not be read: {error}")) from error
    if len(data) > limit:
        gateway.discard(request.environ)
        raise too_large("body", limit)
    if length is not None and len(data) < length:
        strict.refuse("ended before its Content-Length")
    return data


def body(request: Request, limit: int) -> bytes | Iterator[bytes]:
    """The whole body, or piece by piece one of more than `limit` bytes, which may have `MAX_LARGE_BYTES`.

    Raises as `read`, and so does the iterator.
    """
    length, stream = request.content_length, request.environ["wsgi.input"]
    if length is not None:
        return read(request, limit) if length <= limit else pieces(request, MAX_LARGE_BYTES)
    if not request.environ.get("wsgi.input_terminated"):
        return b""
    began = b"".join(islice(_until_the_end(stream), limit // MB + 1))
    return began if len(began) <= limit else chain((began,), _until_the_end(stream))


def pieces(request: Request, limit: int) -> Iterator[bytes]:
    """The body piece by piece, for what is too large for the memory. Raises as `read`."""
    length = request.content_length
    if length is None:
        strict.refuse("needs a Content-Length")
    if length > limit:
        gateway.discard(request.environ)
        raise too_large("body", limit)
    return _pieces(request.environ["wsgi.input"], length)


def _pieces(stream: IO[bytes], length: int) -> Iterator[bytes]:
    while length > 0:
        try:
            piece = stream.read(min(length, MB))
        except gateway.BROKEN_BODY as error:
            raise Invalid.fields(FieldError(field="body", message=f"could not be read: {error}")) from error
        if not piece:
            strict.refuse("ended before its Content-Length")
        length -= len(piece)
        yield piece


def _until_the_end(stream: IO[bytes]) -> Iterator[bytes]:
    """What a server hands on of a chunked body."""
    try:
        while piece := stream.read(MB):
            yield piece
    except gateway.BROKEN_BODY as error:
        raise Invalid.fields(FieldError(field="body", message=f"could not be read: {error}")) from error


def too_large(field: str, limit: int) -> TooLarge:
    """The error for a body or field above `limit` bytes."""
    size = f"{limit // MB} MB" if limit >= MB else f"{limit // 1024} KB"
    return TooLarge(f"{field}: is larger than {size}", errors=(FieldError(field=field, message=f"at most {size}"),))


def pairs(encoded: bytes, *, field: str = "query") -> dict[str, Any]:
    """Fields of a query string or urlencoded form; a name that comes again makes a list. Raises Invalid."""
    try:
        found = parse_qsl(encoded.decode(), keep_blank_values=True, errors="strict", max_num_fields=MAX_FIELDS)
    except UnicodeDecodeError:
        strict.refuse("is not UTF-8 text, percent-encoded", field=field)
    except ValueError:
        strict.refuse(f"has more than {MAX_FIELDS} fields", field=field)
    fields: dict[str, Any] = {}
    for name, value in found:
        if name not in fields:
            fields[name] = value
        elif isinstance(fields[name], list):
            fields[name].append(value)
        else:
            fields[name] = [fields[name], value]
    return fields
