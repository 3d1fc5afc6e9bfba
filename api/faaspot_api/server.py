"""The HTTP server: gunicorn with threads, on an inherited socket, around `create_app`."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

from gunicorn.app.base import BaseApplication

from faaspot_api import log
from faaspot_api.http import gateway
from faaspot_api.keys import KeyMissingError, public_key
from faaspot_api.migrate import CANNOT_WORK, migrate
from faaspot_api.settings import Settings
from faaspot_runner.contract.failpoints import arm

LINE_BYTES = 8190
"""Longest request line: the arguments of a sync GET travel in it."""
HEADERS, HEADER_BYTES = 100, 8190
KEEP_ALIVE_SECONDS = 15
FROZEN_SECONDS = 60
"""A web process whose main thread has not moved for this long is replaced."""
_PR_SET_PDEATHSIG = 1


class Server(BaseApplication):  # type: ignore[misc]
    """gunicorn, configured by `settings` alone: no file, no command line, no variable of its own."""

    def __init__(self, settings: Settings, descriptor: int, ready: int | None = None) -> None:
        self._settings = settings
        self._descriptor = descriptor
        self._ready = ready
        super().__init__()

    def load_config(self) -> None:
        """Called by gunicorn."""
        for name, value in self._options().items():
            self.cfg.set(name, value)

    def load(self) -> Callable[..., Any]:
        """Called by gunicorn in each web process: connections belong to one process."""
        application: Callable[..., Any] = import_module("faaspot_api.app").create_app(self._settings)
        return application

    def _tell(self, _worker: Any) -> None:
        """A web process takes requests from now on: tell who waits for the first."""
        if self._ready is not None:
            with contextlib.suppress(BrokenPipeError):  # it was the second, and nobody listens any more
                os.write(self._ready, b"1")

    def _options(self) -> dict[str, Any]:
        settings = self._settings
        return {
            "bind": f"fd://{self._descriptor}",
            "worker_class": "faaspot_api.http.gateway.Worker",
            "workers": settings.web_processes,
            "threads": settings.web_threads,
            "timeout": FROZEN_SECONDS,
            "graceful_timeout": int(settings.grace) + 1,
            "keepalive": KEEP_ALIVE_SECONDS,
            "limit_request_line": LINE_BYTES,
            "limit_request_fields": HEADERS,
            "limit_request_field_size": HEADER_BYTES,
            # Whom to believe about X-Forwarded-* is settled in the application, by `trusted_proxies`.
            "forwarded_allow_ips": "",
            "certfile": settings.certfile or None,
            "keyfile": settings.keyfile or settings.certfile or None,
            "ssl_context": gateway.tls_context,
            "logger_class": "faaspot_api.http.gateway.Log",
            "accesslog": "-" if settings.access_log else None,
            "errorlog": "-",
            "loglevel": settings.log_level,
            "control_socket_disable": True,
            "post_fork": _die_with_master,
            "post_worker_init": self._tell,
        }


def serve(settings: Settings, descriptor: int, *, token: str = "", ready: int | None = None) -> int:
    """Answer HTTP on the listening socket `descriptor` until SIGTERM, then drain; the exit status (see `migrate`).

    `token`: the text that the token `admin` shall have, "" leaves it. `ready`: a descriptor for a byte when it answers.
    """
    arm(settings.failpoints)
    log.configure(settings.log_level, "api")
    # Once, before the fork: the processes share what is imported.
    import_module("faaspot_api.app")
    if status := migrate(settings, token):
        return status
    try:
        public_key(settings)
    except KeyMissingError as error:
        sys.stderr.write(f"{error}\n")
        return CANNOT_WORK
    Server(settings, descriptor, ready).run()
    return 0


def _die_with_master(arbiter: Any, _worker: Any) -> None:
    """A web process must not outlive a killed master: it would go on taking connections from its successors."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != arbiter.pid:
        os._exit(1)
