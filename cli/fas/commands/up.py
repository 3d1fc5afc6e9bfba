"""`fas up`: a whole platform on this machine, in the foreground.

This process only starts `python -m faaspot_api up`, tells what it is told on a pipe, writes the profile, and hands
signals on. The platform dies with it, even when it is killed: the child asks the kernel for that (``--parent-pid``).
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
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
TOKEN_LETTERS = 16
"""The platform takes no shorter token; it says so itself of one in the environment."""


def _token(context: click.Context, option: click.Parameter, value: str | None) -> str | None:
    """The token as it was given; one that the platform would refuse, or take for none, is a usage error."""
    if value is not None and len(value) < TOKEN_LETTERS:
        raise click.BadParameter(f"it has {len(value)} characters, at least {TOKEN_LETTERS} are needed.")
    return value


@click.command(cls=Command)
@click.option("--data-dir", metavar="DIR", help="Where everything is kept. [default: ~/.local/share/faaspot]")
@click.option("--host", metavar="HOST", help="Address to listen on. [default: 127.0.0.1]")
@click.option("--port", type=click.IntRange(0, 65535), metavar="PORT", help="0 picks a free one. [default: 8000]")
@click.option("--workers", type=click.IntRange(min=1), metavar="N", help="Worker processes of the spot.")
@click.option(
    "--token",
    metavar="TOKEN",
    callback=_token,
    help="The admin token, at least 16 characters; without it one is made at the first start.",
)
@click.option("--certfile", metavar="FILE", help="Serve HTTPS with this certificate (PEM).")
@click.option("--keyfile", metavar="FILE", help="The certificate's key (PEM).")
@click.option("--database-url", metavar="URL", help="PostgreSQL instead of the embedded SQLite.")
@click.option("--redis-url", metavar="URL", help="A Redis server instead of the embedded one.")
@click.option("--spots-listen", metavar="HOST:PORT", help="Where other hosts reach the embedded Redis, over TLS.")
@click.option("--allow-process-runtime", is_flag=True, help="Allow runs WITHOUT isolation. Development only.")
@pass_state
def up(state: State, /, **options: Any) -> None:
    """Start a whole platform on this machine, in the foreground.

    Prints its address, and at the first start the admin token; writes the profile "local". Ctrl-C or SIGTERM stops it:
    it takes nothing new and waits up to 30 s (FAASPOT_GRACE) for the runs in flight; a second one stops it now. Started
    again on the same folder, everything is still there.
    """
    child = Child([*program("faaspot_api"), "up", *_arguments(options)], _variables(options), quiet=state.as_json)
    told = child.ready()
    if told is not None:
        _tell(state, told, options.get("certfile"))
    elif state.as_json:
        output.failure_json({"message": child.said() or "the platform did not start"})
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

    def __init__(self, command: list[str], variables: dict[str, str], *, quiet: bool = False) -> None:
        """Start it with these variables beside our own.

        It has a process group of its own: Ctrl-C on the terminal reaches it once, through us. `quiet`: what it says for
        people is kept for `said` until it is ready, and goes to our stderr then.
        """
        self._kept: list[str] | None = []
        self._keeping = threading.Lock()
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
                stderr=subprocess.PIPE if quiet else None,
                process_group=0,
            )
        finally:
            os.close(writing)
        self._copying = threading.Thread(target=self._copy, daemon=True)
        self._copying.start()
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
        if not text.strip():
            return None
        with self._keeping:
            kept, self._kept = self._kept or [], None
            for line in kept:
                output.note(line)
        return dict(json.loads(text))

    def said(self) -> str:
        """What it said before it ended without ever being ready, on one line."""
        self._copying.join()
        return " ".join(line.removeprefix("faaspot: ") for line in self._kept or ())

    def _copy(self) -> None:
        assert self._process is not None, "started before the thread"
        for line in self._process.stderr or ():
            text = line.decode(errors="replace").rstrip("\n")
            with self._keeping:
                output.note(text) if self._kept is None else self._kept.append(text)

    def wait(self, was_ready: bool) -> int:
        """The exit code once it has ended; a signal's is 128 and its number, as a shell has it."""
        assert self._process is not None, "started with the object"
        code = self._process.wait()
        self._copying.join()
        if code < 0:
            return 128 - code
        return code if code or was_ready else FAILED


def _tell(state: State, told: dict[str, Any], certfile: str | None) -> None:
    before = state.client.profiles.list().get(PROFILE)
    current = _write_profile(state, told, certfile)
    if before is not None and before.token != told["token"] and before.url != (now := _address(state)):
        output.note(f"Profile {PROFILE!r} pointed to the platform at {before.url}: now to {now}.")
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


def _address(state: State) -> str:
    return state.client.profiles.get(PROFILE).url


def _write_profile(state: State, told: dict[str, Any], certfile: str | None) -> str | None:
    """Write the profile of this platform; the name of the one that is current then."""
    store = state.client.profiles
    parts = urlsplit(told["url"])
    host = "127.0.0.1" if parts.hostname in EVERYWHERE else parts.hostname
    values = {"host": host, "protocol": parts.scheme, "port": parts.port, "token": told.get("token")}
    certificate = str(Path(certfile).resolve()) if certfile else ""
    store.create(PROFILE, update_if_exist=True, **values, ssl_certificate=certificate)
    return store.current()
