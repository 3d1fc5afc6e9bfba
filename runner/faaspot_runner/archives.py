"""Packed environments: what one spot has built reaches the others as a blob, and is installed there without an index.

What is packed are the packages alone. The interpreter's part is made anew where it is unpacked, and only for an
interpreter for which the same lock has the same name: else the lock is installed as on any spot.
"""

from __future__ import annotations

import logging
import tempfile
from dataclasses import replace

from faaspot_runner.blobs import BlobError, Blobs
from faaspot_runner.contract import SandboxSpec
from faaspot_runner.environments.archive import Packed, pack
from faaspot_runner.environments.build import Environments
from faaspot_runner.sandbox.spec import Interpreter

log = logging.getLogger(__name__)


class Archives:
    """The archives of the environments of one spot."""

    def __init__(self, blobs: Blobs, environments: Environments) -> None:
        self._blobs = blobs
        self._environments = environments

    def keep(self, name: str) -> str | None:
        """Pack an environment that is here and have the platform keep it; its digest. None if that failed.

        The environment works all the same: who lacks it installs it from its lock.
        """
        try:
            with tempfile.TemporaryFile() as file:
                digest = pack(self._environments.path(name), file)
                self._blobs.keep(file, digest)
        except (BlobError, OSError) as error:
            log.warning("the environment %s was not packed for other spots: %s", name, error)
            return None
        return digest

    def installed(self, spec: SandboxSpec, target: Interpreter | None, deadline: float) -> SandboxSpec:
        """The spec once the version's packages are on this spot, by the name that they have here.

        `target`: what they are for, if not this machine's own. Raises BuildError, BlobError.
        """
        if spec.environment is None or spec.lock is None:
            return spec
        text = self._blobs.read(spec.lock).decode()
        path = self._environments.ensure(text, spec.python, deadline, target, self.of(spec))
        return replace(spec, environment=path.name)

    def of(self, spec: SandboxSpec) -> Packed | None:
        """The archive of a version's environment; None if there is none, or it cannot be had."""
        if spec.archive is None or spec.environment is None:
            return None
        try:
            return Packed(name=spec.environment, file=self._blobs.checked(spec.archive))
        except BlobError as error:
            log.warning("the environment %s is installed from its lock: %s", spec.environment, error)
            return None
