"""The I/O: the transports of `_session`, over httpx2.

They raise only `ConnectionFailed` and its kind: lower-layer errors are translated in `translated`, and nowhere else.
The only importer of httpx2.
"""

from __future__ import annotations

import contextlib
import logging
import os
import ssl
import time
from base64 import b64encode
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import IO, Any
from urllib.parse import urlsplit

import httpx2

from faaspot._calls import PREFIX, Request, Response, decode
from faaspot.config import Profile, is_local
from faaspot.errors import AnswerTimedOut, BadArgument, ConfigError, ConnectionFailed

logger = logging.getLogger("faaspot")

CONNECT_SECONDS = 10.0
USER_AGENT = "faaspot-python"
_PIECE = 1024 * 1024


class HttpTransport:
    """A `Transport` over httpx2."""

    def __init__(self, profile: Profile, timeout: float) -> None:
        self._timeout = timeout
        self._client = httpx2.Client(**_options(profile, timeout))

    def send(self, request: Request) -> Response:
        started = time.monotonic()
        with translated(str(self._client.base_url)), _opened(request) as file:
            content = {} if file is None else {"content": _pieces(file)}
            answer = self._client.request(**_arguments(request, self._timeout, file) | content)
        return _response(answer, started)

    def stream(self, request: Request) -> Iterator[str]:
        started = time.monotonic()
        with (
            translated(str(self._client.base_url)),
            self._client.stream(**_arguments(request, self._timeout)) as answer,
        ):
            if answer.status_code != 200:
                answer.read()
                decode(_response(answer, started))
            yield from answer.iter_text()

    def close(self) -> None:
        self._client.close()


class AsyncHttpTransport:
    """An `AsyncTransport` over httpx2."""

    def __init__(self, profile: Profile, timeout: float) -> None:
        self._timeout = timeout
        self._client = httpx2.AsyncClient(**_options(profile, timeout))

    async def send(self, request: Request) -> Response:
        started = time.monotonic()
        with translated(str(self._client.base_url)), _opened(request) as file:
            content = {} if file is None else {"content": _awaited_pieces(file)}
            answer = await self._client.request(**_arguments(request, self._timeout, file) | content)
        return _response(answer, started)

    async def stream(self, request: Request) -> AsyncIterator[str]:
        started = time.monotonic()
        with translated(str(self._client.base_url)):
            async with self._client.stream(**_arguments(request, self._timeout)) as answer:
                if answer.status_code != 200:
                    await answer.aread()
                    decode(_response(answer, started))
                async for text in answer.aiter_text():
                    yield text

    async def close(self) -> None:
        await self._client.aclose()


def _options(profile: Profile, timeout: float) -> dict[str, Any]:
    url = profile.url
    return {
        "base_url": url + PREFIX,
        "headers": {"User-Agent": USER_AGENT, "Accept": "application/json", **authorisation(profile)},
        "timeout": timeout,
        "verify": _verification(profile, url),
        # A proxy from the environment cannot know this machine's own addresses.
        "trust_env": not is_local(urlsplit(url).hostname or ""),
    }


def authorisation(profile: Profile) -> dict[str, str]:
    """The header that says who asks; the token wins over user and password."""
    if profile.token:
        value = f"Token {profile.token}"
    elif profile.username and profile.password:
        value = "Basic " + b64encode(f"{profile.username}:{profile.password}".encode()).decode("ascii")
    else:
        return {}
    if not (value.isascii() and value.isprintable()):
        raise ConfigError("The token has characters that no token has: was it copied whole, and nothing else?")
    return {"Authorization": value}


def _verification(profile: Profile, url: str) -> ssl.SSLContext | bool:
    """Certificates are checked, against a given one or the system's, unless the profile says to trust all."""
    if profile.ssl_trust_all or not url.startswith("https:"):
        return False
    if profile.ssl_certificate is None:
        return True
    try:
        context = ssl.create_default_context(cafile=profile.ssl_certificate)
    except OSError as error:  # ssl.SSLError is one, too
        raise ConfigError(f"Cannot use the certificate {profile.ssl_certificate}: {error}") from error
    # The given certificate is trusted itself, be it self-signed or one that an authority issued.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context


@contextlib.contextmanager
def _opened(request: Request) -> Iterator[IO[bytes] | None]:
    """The file that is sent, if one is. `BadArgument` if it cannot be opened."""
    if request.file is None:
        yield None
        return
    try:
        file = request.file.open("rb")
    except OSError as error:
        raise BadArgument(f"Cannot read {request.file}: {error.strerror}") from error
    with file:
        yield file


def _pieces(file: IO[bytes]) -> Iterator[bytes]:
    while piece := file.read(_PIECE):
        yield piece


async def _awaited_pieces(file: IO[bytes]) -> AsyncIterator[bytes]:
    for piece in _pieces(file):
        yield piece


def _arguments(request: Request, timeout: float, file: IO[bytes] | None = None) -> dict[str, Any]:
    headers = dict(request.headers)
    if request.payload or file is not None:
        headers["Content-Type"] = "application/json"
    if file is not None:
        headers["Content-Length"] = str(os.fstat(file.fileno()).st_size)
    return {
        "method": request.method,
        "url": request.path,
        "params": list(request.query) or None,
        "content": request.payload or None,
        "headers": headers,
        "timeout": httpx2.Timeout(timeout if request.timeout is None else request.timeout, connect=CONNECT_SECONDS),
    }


def _response(answer: httpx2.Response, started: float) -> Response:
    milliseconds = (time.monotonic() - started) * 1000
    request = answer.request
    logger.info("%s %s -> %d in %.0f ms", request.method, request.url, answer.status_code, milliseconds)
    logger.debug("answer headers: %s", dict(answer.headers))
    return Response(
        status=answer.status_code,
        reason=answer.reason_phrase,
        headers=_lowered(answer.headers),
        content=answer.content,
        url=str(request.url),
    )


def _lowered(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


@contextlib.contextmanager
def translated(url: str) -> Iterator[None]:
    """Lower-layer errors become ours, with what a person can do."""
    where = url.removesuffix(PREFIX)
    try:
        yield
    except httpx2.ConnectTimeout as error:
        raise ConnectionFailed(f"{where} did not answer within {CONNECT_SECONDS:g} s.") from error
    except httpx2.TimeoutException as error:
        raise AnswerTimedOut(f"{where} took the request but gave no answer in time.") from error
    except httpx2.ConnectError as error:
        raise ConnectionFailed(f"{where}: {_cause(error)}") from error
    except httpx2.UnsupportedProtocol as error:
        raise ConfigError(f"{where} is not an http or https address") from error
    except (httpx2.RequestError, httpx2.InvalidURL) as error:
        raise ConnectionFailed(f"{where}: {str(error) or type(error).__name__}") from error


def _cause(error: BaseException) -> str:
    text = str(error)
    if "CERTIFICATE_VERIFY_FAILED" in text:
        return f"{text}. Trust its certificate with `fas profiles update NAME --certificate FILE`."
    return text or type(error).__name__
