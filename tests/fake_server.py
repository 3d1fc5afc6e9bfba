"""The real HTTP server, gunicorn with the platform's own options, over the fake services.

`running` starts it as a process of its own (``python -m tests.fake_server FD``) and gives its address, as the
fixture `platform` of the contract suite.
"""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from faaspot_api.app import application
from faaspot_api.server import Server
from faaspot_api.settings import Settings
from tests.fake_services import ADMIN_TOKEN, FakeServices

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class FakePlatform:
    """Where the server listens, and a token that it knows."""

    host: str
    port: int
    token: str = ADMIN_TOKEN
    pid: int = 0

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    def web(self) -> int:
        """Pid of the process that answers requests."""
        (pid,) = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        return int(pid)


class FakeServer(Server):
    """One process, because the fakes' memory is the database."""

    def load(self) -> Callable[..., Any]:
        return application(FakeServices())


@contextlib.contextmanager
def running(certificate: Sequence[str] = ()) -> Iterator[FakePlatform]:
    """A server on a free port, until the block ends. `certificate`: its file and that of its key, for HTTPS."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        descriptor = listener.fileno()
        command = [sys.executable, "-m", "tests.fake_server", str(descriptor), *certificate]
        with subprocess.Popen(command, cwd=ROOT, pass_fds=(descriptor,)) as process:
            try:
                # The socket listens already: a request waits in its backlog until the server is there.
                yield FakePlatform(host="127.0.0.1", port=listener.getsockname()[1], pid=process.pid)
            finally:
                process.terminate()
                process.wait(30)


if __name__ == "__main__":
    certfile, keyfile = sys.argv[2:] or ("", "")
    settings = Settings(web_processes=1, web_threads=16, grace=1.0, certfile=certfile, keyfile=keyfile)
    FakeServer(settings, int(sys.argv[1])).run()
