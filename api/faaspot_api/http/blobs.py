"""Blobs, for spots on other hosts: code, locks, sealed contexts and packed environments, by digest."""

from __future__ import annotations

import re

from flask import Response

from faaspot_api.errors import NotFound, TooLarge
from faaspot_api.http import answers, gateway, reading, spot_schemas
from faaspot_api.http.routes import Call, Routes
from faaspot_runner.contract.spots import MAX_ARCHIVE_BYTES

routes = Routes("blobs")

_DIGEST = re.compile(r"[0-9a-f]{64}")
_BYTES = {
    "requestBody": {
        "required": True,
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}


@routes.route("GET", "/blobs/<digest>", bytes, errors=(404,), media="application/octet-stream")
def get_blob(call: Call, digest: str) -> Response:
    """The bytes with this SHA-256. For spots only."""
    size, pieces = call.services.joining.blob(call.who, _checked(digest))
    answer = Response(pieces, content_type="application/octet-stream")
    answer.content_length = size
    return answer


@routes.route("PUT", "/blobs/<digest>", spot_schemas.KeptBlob, errors=(404, 413), document=_BYTES)
def put_blob(call: Call, digest: str) -> Response:
    """Keep bytes with this SHA-256. For spots only."""
    pieces, size = reading.pieces(call.request, MAX_ARCHIVE_BYTES), call.request.content_length or 0
    try:
        call.services.joining.keep_blob(call.who, _checked(digest), size, pieces)
    except TooLarge:
        gateway.discard(call.request.environ)
        raise
    return answers.value({"digest": digest})


def _checked(digest: str) -> str:
    if not _DIGEST.fullmatch(digest):
        raise NotFound("There is no such blob.")
    return digest
