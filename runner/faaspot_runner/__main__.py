"""`python -m faaspot_runner spot ...` runs a spot, `join URL ...` one of a platform on another host; `doctor [--json]`
examines the machine.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

COMMANDS = {
    "spot": "run a spot: sandboxes and workers",
    "join": "make this host a spot of a platform elsewhere",
    "doctor": "look whether this machine can keep the promises",
}


def main(argv: Sequence[str]) -> int:
    """The exit status. Each command has its own arguments: `... spot --help`."""
    parser = argparse.ArgumentParser(prog="python -m faaspot_runner", description=__doc__)
    parser.add_argument(
        "command", choices=COMMANDS, help="; ".join(f"{name}: {text}" for name, text in COMMANDS.items())
    )
    chosen = parser.parse_args(argv[:1]).command
    # Imported here and not above: a spot needs Redis and RQ, which a machine that is only examined may lack.
    if chosen == "doctor":
        from faaspot_runner import doctor

        return doctor.main(argv[1:])
    if chosen == "join":
        from faaspot_runner.spot import join

        return join.main(argv[1:])
    from faaspot_runner import spot

    return spot.main(argv[1:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
