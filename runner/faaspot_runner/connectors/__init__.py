"""The runtimes that there are, by type."""

from __future__ import annotations

from faaspot_runner.connectors.base import Connector
from faaspot_runner.connectors.docker import DockerConnector
from faaspot_runner.connectors.process import ProcessConnector
from faaspot_runner.connectors.sandbox import SandboxConnector

CONNECTORS: dict[str, type[Connector]] = {
    "sandbox": SandboxConnector,
    "docker": DockerConnector,
    "process": ProcessConnector,
}
