"""Asks the HTTP server beside us whether it is well: for an engine that restarts containers, or waits for them."""

from __future__ import annotations

import ssl
import sys
import urllib.error
import urllib.request

from faaspot_api.settings import Settings

ANSWER_SECONDS = 5.0
SICK = 1
EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104 (read, not bound)


def check_health(settings: Settings) -> int:
    """The exit status: 0 if `/healthz` answers that all is well, else 1, and a line that says what it answered."""
    # It is ourselves: whoever the certificate was made for.
    context = ssl._create_unverified_context() if settings.certfile else None  # noqa: S323
    # Nor does a proxy that others are to use lead to ourselves.
    handlers = urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
    try:
        urllib.request.build_opener(*handlers).open(f"{_address(settings)}/healthz", timeout=ANSWER_SECONDS).close()
    except urllib.error.HTTPError as error:
        with error:
            return _sick(error.read().decode(errors="replace"))
    except OSError as error:
        return _sick(str(error))
    return 0


def _address(settings: Settings) -> str:
    host = EVERYWHERE.get(settings.host, settings.host)
    scheme = "https" if settings.certfile else "http"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{settings.port}"


def _sick(text: str) -> int:
    sys.stderr.write(f"{text}\n")
    return SICK
