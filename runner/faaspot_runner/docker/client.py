"""The `docker` library: the only importer of it. Its client, and its exceptions as ours.

Imported by an engine that is asked something, not before: it takes a tenth of a second, and most processes of a spot
never ask one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import requests
from docker import APIClient
from docker.errors import APIError, DockerException
from docker.utils import kwargs_from_env, parse_repository_tag
from urllib3.exceptions import HTTPError

from faaspot_runner.errors import EngineAway, EngineError

__all__ = ["APIClient", "connect", "parse_repository_tag", "translated"]

T = TypeVar("T")

_EXPLANATION_CHARACTERS = 2000


class _Client(APIClient):
    """One that waits for no answer, and no part of one, for ever, which the library would do for a pull."""

    def send(self, request: requests.PreparedRequest, **more: Any) -> requests.Response:
        if more.get("timeout") is None:
            more["timeout"] = self.timeout
        return super().send(request, **more)


def connect(url: str, environ: Mapping[str, str], seconds: int) -> APIClient:
    """A client of the engine at `url`, which must answer. `seconds`: how long each answer may take."""
    arguments: dict[str, Any] = {**kwargs_from_env(environment=dict(environ))}
    if url:
        arguments["base_url"] = url
    return _Client(**arguments, version="auto", timeout=seconds)


def translated(what: str, call: Callable[[], T], away: Callable[[str], EngineAway]) -> T:
    """What the call gives. Raises EngineError, and what `away` makes of the reason if nobody answers."""
    try:
        return call()
    except APIError as error:
        status = error.response.status_code if error.response is not None else 0
        raise EngineError(f"The Docker engine refused to {what}: {_said(error)}", status=status) from error
    except (requests.exceptions.RequestException, HTTPError, DockerException) as error:
        raise away(_cause(error)) from error


def _said(error: APIError) -> str:
    return (error.explanation or str(error)).strip()[:_EXPLANATION_CHARACTERS]


def _cause(error: BaseException) -> str:
    """The innermost reason: the library wraps a refused connection four times."""
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    return str(error) or type(error).__name__
