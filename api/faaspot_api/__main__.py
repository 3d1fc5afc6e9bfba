"""``python -m faaspot_api up | prepare | gunicorn | recorder | door | migrate | health | restart | backup | restore``.

A process of the control plane each, and what operators do with its data.

`up` is what `fas up` starts; it starts the others. Elsewhere they are run one by one (`compose.yaml`): `prepare` to its
end, then the others.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from faaspot_api.settings import SettingError, Settings, add_arguments, from_arguments

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
    if given.command == "prepare":
        from faaspot_api.prepare import prepare

        return prepare(settings, given.spot_key)
    if given.command == "gunicorn":
        return _serve(settings, given)
    if given.command == "recorder":
        from faaspot_api.recorder import record

        return record(settings, given.ready_fd)
    if given.command == "door":
        return _door(settings, given)
    if given.command == "health":
        from faaspot_api.health import check_health

        return check_health(settings)
    if given.command == "restart":
        from faaspot_api.supervisor.restart import restart

        return restart(settings)
    if given.command == "backup":
        from faaspot_api.backup import backup

        return backup(settings, given.file, keys=not given.without_keys)
    if given.command == "restore":
        from faaspot_api.restore import restore

        return restore(settings, given.file, given.spot_key)
    from faaspot_api.migrate import migrate

    return migrate(settings, settings.token)


def _serve(settings: Settings, given: argparse.Namespace) -> int:
    from faaspot_api.server import serve

    token = sys.stdin.read().strip() if given.token_from_stdin else ""
    if given.fd is not None:
        return serve(settings, given.fd, token=token, ready=given.ready_fd)
    from faaspot_api.supervisor.errors import CannotStartError
    from faaspot_api.supervisor.listener import listen

    try:
        # gunicorn closes it.
        descriptor = listen(settings.host, settings.port).detach()
    except CannotStartError as error:
        sys.stderr.write(f"faaspot: {error}\n")
        return BAD_USAGE
    return serve(settings, descriptor, token=token)


def _door(settings: Settings, given: argparse.Namespace) -> int:
    if given.fd is not None:
        from faaspot_api.door import serve

        return serve(settings, given.fd)
    from faaspot_api.supervisor.doorman import keep_door

    return keep_door(settings, given.spot_key)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m faaspot_api", allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="run the whole platform on this machine", allow_abbrev=False)
    up.add_argument("--ready-fd", type=int, metavar="N", help="write one JSON line here when the platform is ready")
    up.add_argument("--parent-pid", type=int, metavar="P", help="stop when this process, our parent, has ended")
    prepare = commands.add_parser("prepare", help="make what the other parts need, once", allow_abbrev=False)
    prepare.add_argument(
        "--spot-key", type=Path, metavar="FILE", help="where the spots' private key goes (default: the data directory)"
    )
    web = commands.add_parser("gunicorn", help="answer HTTP", allow_abbrev=False)
    web.add_argument("--fd", type=int, metavar="N", help="inherited listening socket (default: --host and --port)")
    web.add_argument("--ready-fd", type=int, metavar="N", help="write a byte here when a web process is ready")
    web.add_argument("--token-from-stdin", action="store_true", help="make sure of the admin token that stdin holds")
    recorder = commands.add_parser("recorder", help="apply events and reconcile", allow_abbrev=False)
    recorder.add_argument("--ready-fd", type=int, metavar="N", help="write a byte here when it records")
    door = commands.add_parser("door", help="let spots of other hosts to Redis", allow_abbrev=False)
    door.add_argument("--fd", type=int, metavar="N", help="inherited listening socket (default: --spots-listen)")
    door.add_argument(
        "--spot-key", type=Path, metavar="FILE", help="the spots' private key, where it lets them in, too"
    )
    migrate = commands.add_parser("migrate", help="bring the database up to date", allow_abbrev=False)
    health = commands.add_parser("health", help="ask the HTTP server beside us how it is", allow_abbrev=False)
    restart = commands.add_parser("restart", help="replace the processes of a running platform", allow_abbrev=False)
    backup = commands.add_parser("backup", help="write all that cannot be made again to one file", allow_abbrev=False)
    backup.add_argument("file", metavar="FILE", help="the file to make; - for stdout")
    backup.add_argument("--without-keys", action="store_true", help="leave the private key and the admin token out")
    restore = commands.add_parser("restore", help="make a data directory from a backup", allow_abbrev=False)
    restore.add_argument("file", metavar="FILE", help="what `backup` wrote; - for stdin")
    restore.add_argument("--spot-key", type=Path, metavar="FILE", help="the spots' private key, if the backup has none")
    for command in (up, prepare, web, recorder, door, migrate, health, restart, backup, restore):
        add_arguments(command)
    return parser


if __name__ == "__main__":
    sys.exit(main())
