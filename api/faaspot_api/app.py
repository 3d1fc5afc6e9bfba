"""The composition root: settings in, a WSGI application out. Nothing else builds clients or stores for HTTP."""

from __future__ import annotations

from flask import Flask
from werkzeug.middleware.proxy_fix import ProxyFix

from faaspot_api import http
from faaspot_api.http.waiters import Waiters
from faaspot_api.queue.rq import RedisQueue
from faaspot_api.services import Services
from faaspot_api.settings import Settings


def create_app(settings: Settings) -> Flask:
    """The API of a server with these settings; its database must be migrated."""
    services = Services.open(settings, RedisQueue.open(settings))
    return application(services, waiters=Waiters.of(settings), trusted_proxies=settings.trusted_proxies)


def application(services: Services, *, waiters: Waiters | None = None, trusted_proxies: int = 0) -> Flask:
    """The API over `services`. X-Forwarded-* headers are believed only from that many proxies in front."""
    app = Flask("faaspot_api", static_folder=None)
    http.register(app, services, waiters or Waiters.of(Settings()))
    if trusted_proxies:
        n = trusted_proxies
        app.wsgi_app = ProxyFix(app.wsgi_app, x_for=n, x_proto=n, x_host=n, x_port=n)  # type: ignore[method-assign]
    return app
