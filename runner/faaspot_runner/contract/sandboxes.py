"""What a sandbox is made of, and what a run in it may take."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

Network = Literal["none", "internet"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a run may take. Units: seconds, megabytes (2**20), processes+threads.

    `egress`: with `network` internet the only places it may connect to (`contract.egress`), None: every public one.
    """

    timeout: float = 60.0
    memory: int = 256
    pids: int = 64
    tmp: int = 64
    network: Network = "none"
    egress: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxSpec:
    """All that a runtime needs to stand up one deployment version; equal specs share one sandbox.

    `code` and `context` are blob digests (sha256 hex); the context blob is sealed for spots, see `seal.py`.
    `lock` is the blob digest of the lock text, None when the version has no requirements.
    `environment` is the name under `environments/`, None with `lock`.
    `context_for` is the version id that the context was sealed for: the version that brought it. A later version that
    keeps its context keeps the sealed blob too, because the API cannot open it to seal it anew. None: `version_id`.
    `reuse`: a process whose run has ended well serves the next one, with all that the run has left in it.
    `archive`: blob digest of the packed environment, for spots that have it not; None: they install it from `lock`.
    """

    version_id: str
    deployment: str
    version: int
    runtime: str
    python: str
    code: str
    context: str | None = None
    context_for: str | None = None
    lock: str | None = None
    environment: str | None = None
    limits: Limits = field(default_factory=Limits)
    reuse: bool = False
    archive: str | None = None


def sandbox_spec(data: dict[str, Any]) -> SandboxSpec:
    """The spec from its JSON object. Raises TypeError for unknown or missing fields."""
    limits = data["limits"]
    listed = limits.get("egress")
    return SandboxSpec(**{**data, "limits": Limits(**{**limits, "egress": None if listed is None else tuple(listed)})})
