"""`fas up`: a whole platform on this machine, in the foreground.

This process only starts `python -m faaspot_api up`, tells what it is told on a pipe, writes the profile, and hands
signals on. The platform dies with it, even when it is killed: the child asks the kernel for that (``--parent-pid``).
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path
from types import FrameType
from typing import Any
from urllib.parse import urlsplit

import click

from fas import output
from fas.command import FAILED, Command, State, pass_state
from fas.server import program

PROFILE = "local"
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
SECRET = ("token", "redis_url", "database_url")
EVERYWHERE = ("0.0.0.0", "::")  # noqa: S104 - read, not bound


@click.command(cls=Command)
@click.option("--data-dir", metavar="DIR", help="Where everything is kept. [default: ~/.local/share/faaspot]")
@click.option("--host", metavar="HOST", help="Address to listen on. [default: 127.0.0.1]")
@click.option("--port", type=click.IntRange(0, 65535), metavar="PORT", help="0 picks a free one. [default: 8000]")
@click.option("--workers", type=click.IntRange(min=1), metavar="N", help="Worker processes of the spot.")
@click.option("--token", metavar="TOKEN", help="The admin token; without it one is made at the first start.")
@click.option("--certfile", metavar="FILE", help="Serve HTTPS with this certificate (PEM).")
@click.option("--keyfile", metavar="FILE", help="The certificate's key (PEM).")
@click.option("--database-url", metavar="URL", help="PostgreSQL instead of the embedded SQLite.")
@click.option("--redis-url", metavar="URL", help="A Redis server instead of the embedded one.")
@click.option("--allow-process-runtime", is_flag=True, help="Allow runs WITHOUT isolation. Development only.")
@pass_state
def up(state: State, /, **options: Any) -> None:
    """Start a whole platform on this machine, in the foreground.

    Prints its address, and at the first start the admin token; writes the profile "local". Ctrl-C or SIGTERM stops it;
    started again on the same folder, everything is still there.
    """
    child = Child([*program("faaspot_api"), "up", *_arguments(options)], _variables(options))
    told = child.ready()
    if told is not None:
        _tell(state, told, options.get("certfile"))
    raise click.exceptions.Exit(child.wait(was_ready=told is not None))


def _arguments(options: dict[str, Any]) -> list[str]:
    """The options that were given, as the platform's own command takes them; without those that hold secrets."""
    found: list[str] = []
    for name, each in options.items():
        flag = f"--{name.replace('_', '-')}"
        if name in SECRET:
            continue
        if each is True:
            found.append(flag)
        elif each is not None and each is not False:
            found += [flag, str(each)]
    return found


def _variables(options: dict[str, Any]) -> dict[str, str]:
    """The options that hold secrets, as environment variables: every user of the machine can read a command line."""
    return {f"FAASPOT_{name.upper()}": str(options[name]) for name in SECRET if options[name] is not None}


class Child:
    """The platform's first process. It says one line of JSON on a pipe when all is healthy."""

    def __init__(self, command: list[str], variables: dict[str, str]) -> None:
        """Start it with these variables beside our own.

        It has a process group of its own: Ctrl-C on the terminal reaches it once, through us.
        """
        self._process: subprocess.Popen[bytes] | None = None
        self._asked = False
        for each in SIGNALS:
            if signal.getsignal(each) is not signal.SIG_IGN:  # nohup, or a shell's background job: it stays ignored
                signal.signal(each, self._hand_on)
        self._pipe, writing = os.pipe()
        try:
            self._process = subprocess.Popen(
                [*command, "--ready-fd", str(writing), "--parent-pid", str(os.getpid())],
                env={**os.environ, **variables},
                pass_fds=[writing],
                stdin=subprocess.DEVNULL,
                stdout=2,  # our stdout has only what we say
                process_group=0,
            )
        finally:
            os.close(writing)
        if self._asked:  # between the start and the line that keeps the process
            self._process.send_signal(signal.SIGTERM)

    def _hand_on(self, number: int, frame: FrameType | None) -> None:
        """Whatever asks us to end asks the platform to stop cleanly."""
        self._asked = True
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)

    def ready(self) -> dict[str, Any] | None:
        """What the platform says once it is healthy; None if it ended before."""
        with open(self._pipe, "rb") as pipe:
            text = pipe.readline()
        return dict(json.loads(text)) if text.strip() else None

    def wait(self, was_ready: bool) -> int:
        """The exit code once it has ended; a signal's is 128 and its number, as a shell has it."""
        assert self._process is not None, "started with the object"
        code = self._process.wait()
        if code < 0:
            return 128 - code
        return code if code or was_ready else FAILED


def _tell(state: State, told: dict[str, Any], certfile: str | None) -> None:
    current = _write_profile(state, told, certfile)
    if state.as_json:
        shown = {key: told.get(key) for key in ("url", "data_dir")}
        return output.value({**shown, "token": told.get("token") if told.get("first_token") else None})
    output.line(f"faaspot is ready at {told['url']}")
    if told.get("first_token"):
        kept = Path(told["data_dir"]) / "admin-token"
        output.line(f"Admin token, shown this once and kept in {kept}: {told['token']}")
    using = "is current" if current == PROFILE else f"is written, {current!r} stays current"
    output.line(f"Profile {PROFILE!r} {using}. Stop with Ctrl-C.")
    return None


def _write_profile(state: State, told: dict[str, Any], certfile: str | None) -> str | None:
    """Write the profile of this platform; the name of the one that is current then."""
    store = state.client.profiles
    parts = urlsplit(told["url"])
    host = "127.0.0.1" if parts.hostname in EVERYWHERE else parts.hostname
    values = {"host": host, "protocol": parts.scheme, "port": parts.port, "token": told.get("token")}
    certificate = str(Path(certfile).resolve()) if certfile else ""
    store.create(PROFILE, update_if_exist=True, **values, ssl_certificate=certificate)
    return store.current()
