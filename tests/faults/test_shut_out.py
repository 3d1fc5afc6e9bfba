"""Redis forgets its users, as after a restore or a failover: a spot of another host is let in again by itself."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import redis

from tests.platforms import SETUPS, Platform, eventually

pytestmark = [pytest.mark.slow]

IP = "10.99.0.2"
CODE = "def main(args, context):\n    return context['word']\n"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


@contextmanager
def joined(home: Path) -> Iterator[tuple[Platform, subprocess.Popen[bytes]]]:
    """A platform without spots of its own, and one that joined it, on this machine under another address."""
    with ExitStack() as stack:
        options = ("--spots-listen", f"127.0.0.1:{free_port()}")
        platform = stack.enter_context(Platform(SETUPS[0], home, options, {"FAASPOT_LOCAL_SPOTS": "0"}))
        token = platform.fas("tokens", "create", "hosts", "--role", "join").stdout.split()[-1]
        command = [platform.command, "spots", "join", platform.url, "--data-dir", str(home / "spot"), "--ip", IP]
        kept = {name: value for name, value in os.environ.items() if not name.startswith("FAASPOT_")}
        with (home / "log").open("w") as log:
            process = subprocess.Popen([*command, "--token", token], stdout=log, stderr=log, env=kept)
        stack.callback(lambda: process.poll() is None and (process.send_signal(signal.SIGKILL), process.wait(20)))
        yield platform, process


def status(platform: Platform) -> str:
    answer = platform.call("GET", f"spots/{IP}")
    return str(answer.json["status"]) if answer.status == 200 else "unknown"


def test_a_spot_that_redis_knows_no_more_is_let_in_again_and_one_that_was_removed_is_not() -> None:
    home = Path(tempfile.mkdtemp(prefix="faaspot-e2e-", dir="/tmp"))
    try:
        with joined(home) as (platform, process):
            eventually(lambda: status(platform) == "online", 30, "it joins")
            platform.fas("tokens", "revoke", "hosts")  # it needs it no more
            platform.deploy("told", CODE, context={"word": "hello"})
            password = (platform.data / "keys" / "redis-password").read_text().strip()
            with redis.Redis(unix_socket_path=str(platform.data / "redis" / "redis.sock"), password=password) as own:
                assert own.acl_deluser(f"spot-{IP}") == 1
                eventually(lambda: status(platform) == "offline", 30, "it is shut out")
                eventually(lambda: status(platform) == "online", 30, (home / "log").read_text())
                assert platform.ended(platform.start_run("told"))["output"] == "hello"
                own.acl_deluser(f"spot-{IP}")
                platform.fas("spots", "remove", "--ip", IP, check=False)
            assert process.wait(60) in (0, 2)
            eventually(lambda: status(platform) == "unknown", 30, "it is dismissed when it has been silent for a while")
    finally:
        shutil.rmtree(home)
