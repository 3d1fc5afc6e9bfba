"""``python -m faaspot_api up | gunicorn | recorder | migrate``: one process of the control plane each.

`up` is what `fas up` starts; it starts the others. On a cluster they are run one by one.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from faaspot_api.settings import SettingError, add_arguments, from_arguments

BAD_USAGE = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit status."""
    given = _parser().parse_args(arguments)
    try:
        settings = from_arguments(given)
    except SettingError as error:
        sys.stderr.write(f"faaspot: {error}\n")
        return BAD_USAGE
    # Each command imports its own part of the program: a start should not pay for what it does not use.
    if given.command == "up":
        from faaspot_api.supervisor.up import up

        return up(settings, ready_fd=given.ready_fd, parent=given.parent_pid)
    if given.command == "gunicorn":
        from faaspot_api.server import serve

        return serve(settings, given.fd, token=sys.stdin.read().strip() if given.token_from_stdin else "")
    if given.command == "recorder":
        from faaspot_api.recorder import record

        return record(settings)
    from faaspot_api.migrate import migrate

    return migrate(settings, settings.token)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m faaspot_api", allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="run the whole platform on this machine", allow_abbrev=False)
    up.add_argument("--ready-fd", type=int, metavar="N", help="write one JSON line here when the platform is ready")
    up.add_argument("--parent-pid", type=int, metavar="P", help="stop when this process, our parent, has ended")
    web = commands.add_parser("gunicorn", help="answer HTTP on an inherited socket", allow_abbrev=False)
    web.add_argument("--fd", type=int, required=True, metavar="N", help="descriptor of the listening socket")
    web.add_argument("--token-from-stdin", action="store_true", help="make sure of the admin token that stdin holds")
    recorder = commands.add_parser("recorder", help="apply events and reconcile", allow_abbrev=False)
    migrate = commands.add_parser("migrate", help="bring the database up to date", allow_abbrev=False)
    for command in (up, web, recorder, migrate):
        add_arguments(command)
    return parser


if __name__ == "__main__":
    sys.exit(main())
