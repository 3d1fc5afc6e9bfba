"""A container that the user runs, and in which we are guests: a launcher is started in it, nothing of it is changed."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from faaspot_runner.docker.container import Container
from faaspot_runner.docker.engine import Engine, not_there
from faaspot_runner.errors import EngineError

SHARED, ENVIRONMENTS = "/run/faaspot", "/run/environments"
"""Where the user has bound a directory for our sockets, and the spot's environments, into the container."""
EXECUTED_SECONDS = 5.0
_POLL_SECONDS = 0.05
OUTPUT_SECONDS, OUTPUT_BYTES = 60.0, 65_536
"""How long a program of ours that only tells something may take, and how much of it is heard."""
HOW = (
    f"Start it with a directory of this spot for our sockets: --mount type=bind,source=DIRECTORY,target={SHARED},"
    f"readonly; for functions with requirements also D/environments as {ENVIRONMENTS}, readonly as well; with "
    "--security-opt systempaths=unconfined; and with the seccomp profile that "
    "`python -m faaspot_runner.sandbox.profile` prints."
)


class Guest(Container):
    """`shared`: the host's directory at /run/faaspot; `environments`: whether the spot's are bound into it."""

    def __init__(self, engine: Engine, name: str, user: str) -> None:
        """Look at it. Raises EngineError, with what to do if it is not one that functions can run in."""
        told = _inspected(engine, name)
        super().__init__(engine, str(told["Id"]), -1)
        self._user = user
        self._name = name
        mounts = told.get("Mounts", [])
        binds = {str(bind["Destination"]): str(bind.get("Source", "")) for bind in mounts}
        if not told["State"]["Running"]:
            raise EngineError(f"The container {name} does not run. Start it: docker start {name}")
        if SHARED not in binds:
            raise EngineError(f"The container {name} has nothing bound at {SHARED}. {HOW}")
        if (writable := _writable(mounts)) is not None:
            raise EngineError(f"The container {name} can write what is ours in it, at {writable}. {HOW}")
        self.shared = Path(binds[SHARED])
        self.environments = ENVIRONMENTS in binds

    def execute(self, command: tuple[str, ...]) -> None:
        """Start a program in it, as an ordinary user; `pid` is then its. Raises EngineError."""
        execution = self._exec(command)
        self._engine.ask("start a program in a container", lambda api: api.exec_start(execution, detach=True))
        deadline = time.monotonic() + EXECUTED_SECONDS
        while self.pid <= 0 and time.monotonic() < deadline:
            told = self._engine.ask("look at a program", lambda api: api.exec_inspect(execution))
            if told.get("ExitCode") is not None and not told.get("Running"):
                raise EngineError(f"No launcher starts in the container {self._name}. {HOW}")
            self.pid = int(told.get("Pid") or 0)
            if self.pid <= 0:
                time.sleep(_POLL_SECONDS)

    def output(self, command: tuple[str, ...]) -> str:
        """What a program prints in it, at most `OUTPUT_BYTES`. Raises EngineError, also if it does not end."""
        execution = self._exec(command)
        said, ended = self._engine.ask(
            "start a program in a container", lambda api: _heard(api.exec_start(execution, stream=True))
        )
        if not ended:
            text = f"A program in the container {self._name} did not end within {OUTPUT_SECONDS:.0f} s"
            raise EngineError(f"{text}: {' '.join(command)[:100]}")
        return said.decode(errors="replace")

    def _exec(self, command: tuple[str, ...]) -> str:
        made: dict[str, Any] = self._engine.ask(
            "start a program in a container", lambda api: api.exec_create(self.id, list(command), user=self._user)
        )
        return str(made["Id"])

    def last_words(self) -> str:
        return HOW

    def remove(self) -> bool:
        """It is the user's: the launcher in it has ended with its channel."""
        return True


def _heard(output: Any) -> tuple[bytes, bool]:
    """The first of it, and False if its time was over before its end. The program is anybody's, and may never end."""
    late = threading.Event()

    def end() -> None:
        late.set()
        with contextlib.suppress(OSError):
            output.close()  # wakes who waits for more

    timer = threading.Timer(OUTPUT_SECONDS, end)
    timer.start()
    said = bytearray()
    try:
        for piece in output:
            said += piece
            if len(said) >= OUTPUT_BYTES:
                break
    finally:
        timer.cancel()
        timer.join()
        output._response.close()  # the stream's own `close` leaves the descriptor to the garbage collector
    return bytes(said[:OUTPUT_BYTES]), not late.is_set()


def _inspected(engine: Engine, name: str) -> dict[str, Any]:
    try:
        told: dict[str, Any] = engine.ask("look at a container", lambda api: api.inspect_container(name))
    except EngineError as error:
        if not_there(error):
            raise EngineError(f"There is no container {name}. {HOW}", status=404) from error
        raise
    return told


def _writable(mounts: Sequence[Mapping[str, Any]]) -> str | None:
    """Where the container can write a directory that we use by its path, and could put a link into our way."""
    ours = [_source(mount) for mount in mounts if mount["Destination"] in (SHARED, ENVIRONMENTS)]
    for mount in mounts:
        source = _source(mount)
        if mount.get("RW", True) and any(source.is_relative_to(each) or each.is_relative_to(source) for each in ours):
            return str(mount["Destination"])
    return None


def _source(mount: Mapping[str, Any]) -> Path:
    return Path(str(mount.get("Source", "")))
