"""What root must be allowed to do for a platform to start: a container's root often is not."""

from __future__ import annotations

import os
from pathlib import Path

from faaspot_api.supervisor.errors import CannotStartError

NEEDED = {"CHOWN": 0, "DAC_OVERRIDE": 1, "FOWNER": 3, "KILL": 5, "SETGID": 6, "SETUID": 7}
"""Capabilities, by the kernel's numbers: to give the services a user and files of their own, and to end them."""


def check_rights(status: Path = Path("/proc/self/status")) -> None:
    """Raises CannotStartError if we are root and lack one of them. An ordinary user needs none."""
    if os.geteuid() != 0:
        return
    line = next(line for line in status.read_text().splitlines() if line.startswith("CapEff:"))
    held = int(line.split()[1], 16)
    lacking = [name for name, bit in NEEDED.items() if not held >> bit & 1]
    if lacking:
        options = " ".join(f"--cap-add {name}" for name in lacking)
        raise CannotStartError(
            f"root lacks the capabilities {', '.join(lacking)} here: start the container with {options}, "
            "or start the platform as an ordinary user, who needs none"
        )
