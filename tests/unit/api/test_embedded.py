"""The private Redis: its files, its one way in, what it refuses."""

from __future__ import annotations

import os
import stat
import subprocess
import tempfile
from pathlib import Path

import pytest
import redis

from faaspot_api.queue import embedded
from faaspot_api.queue.clients import answers, open_client
from tests.platforms import eventually
from tests.redis_servers import running_redis


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_only_the_password_opens_it_and_only_by_the_socket() -> None:
    with running_redis() as server:
        assert server.client().ping()
        with pytest.raises(redis.AuthenticationError):
            open_client(server.url, None).ping()
        assert server.client().info("server")["tcp_port"] == 0
        assert mode(server.prepared.configuration) == 0o600
        assert mode(server.prepared.directory) == 0o700
        assert mode(server.prepared.socket) & 0o077 == 0


@pytest.mark.parametrize("command", embedded.FORBIDDEN)
def test_commands_that_write_files_or_leak_are_gone(command: str) -> None:
    with running_redis() as server, pytest.raises(redis.ResponseError, match="unknown command"):
        server.client().execute_command(command)


def test_scripts_still_run() -> None:
    with running_redis() as server:
        assert server.client().eval("return redis.call('INCR', KEYS[1])", 1, "n") == 1


def test_what_was_written_is_there_after_a_restart() -> None:
    with running_redis() as server:
        server.client().set("kept", "1")
        server.restart()
        assert server.client().get("kept") == b"1"


def test_it_keeps_writing_when_memory_is_short_never_evicts() -> None:
    with running_redis() as server:
        assert server.client().info("memory")["maxmemory_policy"] == "noeviction"
        assert server.client().info("memory")["maxmemory"] == embedded.default_memory() * 2**20
        assert server.client().info("persistence")["aof_enabled"] == 1


def test_a_long_path_gets_a_short_private_socket_that_is_forgotten_afterwards() -> None:
    with tempfile.TemporaryDirectory(prefix="faaspot-tests-") as home:
        directory = Path(home) / ("long-" * 25) / "redis"
        directory.parent.mkdir()
        server = embedded.prepare(directory, "pw")
        assert len(os.fsencode(server.socket)) <= embedded.SOCKET_LIMIT
        assert mode(server.socket.parent) == 0o700
        assert embedded.prepare(directory, "pw").socket == server.socket
        process = subprocess.Popen(server.command, stdout=subprocess.DEVNULL)
        try:
            eventually(lambda: answers(server.url, "pw"), 10)
        finally:
            process.terminate()
            process.wait(10)
        embedded.forget(server)
        assert not server.socket.parent.exists()


def test_a_squatted_short_directory_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory(prefix="faaspot-tests-") as home:
        directory = Path(home) / ("long-" * 25) / "redis"
        directory.parent.mkdir()
        monkeypatch.setenv("XDG_RUNTIME_DIR", home)
        first = embedded.prepare(directory, "pw")
        assert first.socket.parent.parent == Path(home)
        first.socket.parent.chmod(0o777)
        second = embedded.prepare(directory, "pw")
        assert second.socket.parent != first.socket.parent
        embedded.forget(second)


def test_its_memory_is_a_quarter_of_the_machines_or_the_containers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2**20
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(embedded, "CONTAINER_LIMITS", (str(limit), str(tmp_path / "missing")))
    assert embedded.default_memory() == max(embedded.LEAST_MEMORY, machine // 4)
    limit.write_text("max\n")
    assert embedded.default_memory() == max(embedded.LEAST_MEMORY, machine // 4)
    limit.write_text(f"{800 * 2**20}\n")
    assert embedded.default_memory() == 200
    limit.write_text(f"{8 * 2**20}\n")
    assert embedded.default_memory() == embedded.LEAST_MEMORY


def test_a_limit_that_was_said_is_kept_to(tmp_path: Path) -> None:
    server = embedded.prepare(tmp_path / "redis", "pw", memory=77)
    assert "maxmemory 77mb\n" in server.configuration.read_text()
    embedded.forget(server)


def test_without_a_binary_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "find_spec", lambda _name: None)
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(embedded.ServerMissingError, match="--redis-url"):
        embedded.find_binary()


def test_a_server_on_path_is_taken_where_the_wheel_has_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "redis-server"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setattr(embedded, "find_spec", lambda _name: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert embedded.find_binary() == program
