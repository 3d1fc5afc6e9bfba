"""The broker process of one spot: sandboxes, workers, heartbeat, control messages, drain. `main` is its entry."""

from __future__ import annotations

from faaspot_runner.spot.process import main

__all__ = ["main"]
