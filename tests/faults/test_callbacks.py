"""A callback is told of every end, though the platform is killed between the end and the telling."""

from __future__ import annotations

import contextlib
import os
import signal

from tests.platforms import SETUPS, descendants, eventually, platform
from tests.receivers import receiving

ECHO = "def main(args, context):\n    return args\n"


def test_every_end_is_told_though_everything_is_killed_before_it_was() -> None:
    environ = {"FAASPOT_CALLBACK_NETWORKS": "127.0.0.0/8"}
    deaf = True
    with receiving(lambda _number: 503 if deaf else 204) as receiver, platform(SETUPS[0], environ=environ) as running:
        running.deploy("echo", ECHO, callback_url=receiver.url)
        accepted = [running.start_run("echo", {"n": n}) for n in range(5)]
        other = running.call("POST", "deployments/echo/rpc/", {"n": 9}, headers={"Callback-Url": receiver.url + "/own"})
        accepted.append(other.json)
        for execution in accepted:
            running.ended(execution)
        eventually(lambda: all(receiver.of(execution) for execution in accepted), 10, "each was told once")
        assert running.process is not None
        for pid in (running.process.pid, *descendants(running.process.pid)):
            with contextlib.suppress(ProcessLookupError):  # what only stood ready may have ended by itself
                os.kill(pid, signal.SIGKILL)
        running.process.wait(10)
        deaf = False
        (running.home / "up.log").unlink()
        running.start()

        def heard(execution: str) -> bool:
            return bool(running.call("GET", f"executions/{execution}/callbacks").json["status"] == "delivered")

        eventually(lambda: all(heard(execution) for execution in accepted), 90, "each was heard")
        secret = running.call("GET", "tokens/callback-secret").json["secret"]
        assert all(told.is_signed_by(secret) for told in receiver.told)
        assert receiver.of(accepted[-1])[-1].path == "/own"
        assert {told.json["data"]["status"] for told in receiver.told} == {"Success"}

        refused = running.call("POST", "deployments/echo/rpc/", {}, headers={"Callback-Url": "http://169.254.169.254/"})
        assert (refused.status, refused.json["errors"][0]["field"]) == (400, "Callback-Url")
