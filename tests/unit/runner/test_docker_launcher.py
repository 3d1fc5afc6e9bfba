"""The launcher in a container that is not, or no more, what it should be; on a real engine."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import docker
import pytest

from faaspot_runner.connectors import CONNECTORS
from faaspot_runner.docker import guest as module
from faaspot_runner.docker.engine import Engine
from faaspot_runner.docker.guest import Guest
from faaspot_runner.errors import EngineError, SandboxError
from faaspot_runner.sandbox import launchers
from tests import docker_engine
from tests.unit.runner.test_docker_connector import (
    SAME,
    WALLED,
    _nothing_is_left,
    api,
    external,
    guest,
    opened,
    run,
    stack,
)
from tests.unit.runner.test_profile import FILE

__all__ = ["_nothing_is_left", "api", "guest"]

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]


def test_a_shared_container_whose_launcher_hangs_gives_way_to_a_new_one(
    tmp_path: Path, api: docker.APIClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launchers, "_LAUNCH_SECONDS", 2.0)

    async def story() -> None:
        manager = stack(tmp_path)
        await manager.deploy(WALLED)
        connector = manager.get_connector("walled")
        assert connector is not None
        await opened(connector)
        (container,) = api.containers(filters={"label": f"faaspot.platform={docker_engine.PLATFORM}"})
        os.kill(api.inspect_container(container["Id"])["State"]["Pid"], signal.SIGSTOP)
        with pytest.raises(SandboxError, match="gave no answer"):
            await opened(connector, SAME, "another")
        assert await run(connector, SAME) == 2
        assert len(docker_engine.objects()) == 1, "the old container is gone"
        await manager.undeploy_all()

    asyncio.run(story())


PEER = """
import errno, socket
SO_PASSPIDFD, SO_PEERPIDFD = 76, 77
ours, theirs = socket.socketpair()
def attempt(what, *args):
    try:
        what(*args)
    except OSError as error:
        return errno.errorcode[error.errno]
    return "done"
print(
    attempt(ours.getsockopt, socket.SOL_SOCKET, SO_PEERPIDFD),
    attempt(ours.setsockopt, socket.SOL_SOCKET, SO_PASSPIDFD, 1),
    attempt(ours.getsockopt, socket.SOL_SOCKET, socket.SO_PEERCRED, 12),
    attempt(ours.setsockopt, socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    attempt(socket.socket(socket.AF_INET6).setsockopt, socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1),
)
"""


FAMILIES = """
import errno, socket
REFUSED = (errno.ENOSYS, errno.EPERM)  # older engines know no errno for what is not listed
opened = []
for family in range(64):
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW, socket.SOCK_SEQPACKET):
        try:
            socket.socket(family, kind).close()
        except OSError as error:
            if error.errno not in REFUSED:
                opened.append(family)
        else:
            opened.append(family)
print(*sorted(set(opened)))
"""


def under_the_profile(code: str) -> list[str]:
    """What a program prints in a container that has nothing of ours but the profile."""
    said = docker_engine.docker(
        *("run", "--rm", "--network", "none", "--security-opt", f"seccomp={FILE}"),
        *("--entrypoint", "python3", docker_engine.IMAGE, "-c", code),
    )
    return said.stdout.split()


def test_nothing_in_a_container_gets_a_pidfd_of_who_is_at_a_sockets_other_end() -> None:
    peerpidfd, passpidfd, *others = under_the_profile(PEER)
    assert {peerpidfd, passpidfd} <= {"ENOSYS", "EPERM"}, "EPERM where an engine knows no errno for what is not listed"
    assert others == ["done", "done", "done"]


def test_no_socket_of_another_family_than_four_is_made_in_a_container() -> None:
    assert under_the_profile(FAMILIES) == ["1", "2", "10", "16"]


# ---------------------------------------------------------------- in a container that the user runs


def test_a_function_in_an_external_container_asks_the_name_servers_of_that_container(
    tmp_path: Path, guest: str, api: docker.APIClient
) -> None:
    code = "def main(args, context):\n    return open('/etc/resolv.conf').read()\n"

    async def story() -> None:
        connector = CONNECTORS["docker"](external(tmp_path, guest))
        await connector.deploy(True)
        try:
            its = docker_engine.docker("exec", guest, "cat", "/etc/resolv.conf").stdout
            assert await run(connector, code, network="internet") == its
        finally:
            await connector.undeploy(True)

    asyncio.run(story())


def test_a_program_that_does_not_end_is_not_waited_for(guest: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "OUTPUT_SECONDS", 0.5)
    started = time.monotonic()
    with pytest.raises(EngineError, match=rf"in the container {guest} did not end within 0 s: sh -c echo 1"):
        Guest(Engine("", os.environ), guest, "65533:65533").output(("sh", "-c", "echo 1; exec sleep 600"))
    assert time.monotonic() - started < 5


def test_of_a_program_that_prints_without_end_the_first_is_heard(guest: str) -> None:
    found = Guest(Engine("", os.environ), guest, "65533:65533")
    assert found.output(("sh", "-c", "exec yes")) == "y\n" * (module.OUTPUT_BYTES // 2)
    assert found.output(("sh", "-c", "echo out; echo err >&2")).split() in (["out", "err"], ["err", "out"])
