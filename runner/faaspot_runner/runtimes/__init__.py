"""Where functions run on a spot: runtimes that are up once however many ask, and the sandboxes warm in them."""

from __future__ import annotations

from faaspot_runner.connectors.base import Connector, DeploymentConfig
from faaspot_runner.errors import DeploymentDefinitionError, DeploymentError
from faaspot_runner.runtimes.manager import DefaultDeploymentManager, DeploymentManager

__all__ = [
    "Connector",
    "DefaultDeploymentManager",
    "DeploymentConfig",
    "DeploymentDefinitionError",
    "DeploymentError",
    "DeploymentManager",
]
