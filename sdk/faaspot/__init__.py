"""The client library of faaspot, a self-hosted function platform.

::

    from faaspot import Faaspot

    faaspot = Faaspot()
    faaspot.deployments.create("hello", file="hello.py", wait=True)
    print(faaspot.deployments.run("hello", {"name": "you"}, wait=True))

`faaspot.errors` has the tree of what can go wrong, `faaspot.types` what comes back, `faaspot.config` the profiles, and
`faaspot.testing` runs a function as the platform would, with no platform.
"""

from faaspot.client import AsyncFaaspot, Faaspot
from faaspot.config import Profile, Profiles
from faaspot.errors import ApiError, ConfigError, ConnectionFailed, FaaspotError, NotFound, RunError, WaitTimeout
from faaspot.types import Callback, Deployment, Execution, Rerun, Runtime, Spot, Token, Version

__all__ = [
    "ApiError",
    "AsyncFaaspot",
    "Callback",
    "ConfigError",
    "ConnectionFailed",
    "Deployment",
    "Execution",
    "Faaspot",
    "FaaspotError",
    "NotFound",
    "Profile",
    "Profiles",
    "Rerun",
    "RunError",
    "Runtime",
    "Spot",
    "Token",
    "Version",
    "WaitTimeout",
]
