"""The data directory: what is refused, what is made, who else may have it."""

from __future__ import annotations

import json
import os
import shutil
import socket
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from faaspot_api.supervisor.directory import DataDirectory
from faaspot_api.supervisor.errors import CannotStartError
from faaspot_api.supervisor.listener import listen, url
from tests.ordinary import as_ordinary_user

UID = 61_990
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: is about files of another uid")


@pytest.fixture
def home() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="faaspot-tests-"))
    yield path
    shutil.rmtree(path)


def directory(path: Path, uid: int | None = None) -> DataDirectory:
    return DataDirectory(path=path, uid=uid)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_directory_passes_and_is_not_made_by_looking(home: Path) -> None:
    directory(home / "new" / "deep").inspect()
    assert list(home.iterdir()) == []


def test_an_empty_directory_passes(home: Path) -> None:
    directory(home).inspect()


def test_a_foreign_directory_is_refused_and_untouched(home: Path) -> None:
    (home / "thesis.txt").write_text("mine")
    with pytest.raises(CannotStartError, match="not a faaspot data directory"):
        directory(home).inspect()
    assert [path.name for path in home.iterdir()] == ["thesis.txt"]


def test_a_file_in_its_place_is_refused(home: Path) -> None:
    (home / "file").write_text("")
    with pytest.raises(CannotStartError, match="not a directory"):
        directory(home / "file").inspect()
    with pytest.raises(CannotStartError, match="cannot be made"):
        directory(home / "file" / "below").inspect()


def test_a_directory_that_cannot_be_written_is_refused() -> None:
    def check() -> None:
        with pytest.raises(CannotStartError, match="cannot be made"):
            directory(closed / "new").inspect()
        with pytest.raises(CannotStartError, match="cannot be written"):
            directory(closed).inspect()

    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        closed = Path(name) / "closed"
        closed.mkdir()
        closed.chmod(0o555)
        as_ordinary_user(check)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": "x"}'])
def test_an_unreadable_marker_is_refused(home: Path, text: str) -> None:
    (home / "faaspot.json").write_text(text)
    with pytest.raises(CannotStartError, match="cannot be read"):
        directory(home).inspect()


def test_a_directory_of_a_newer_faaspot_is_refused(home: Path) -> None:
    (home / "faaspot.json").write_text(json.dumps({"format": 99, "id": "x"}))
    with pytest.raises(CannotStartError, match="newer"):
        directory(home).inspect()


@needs_root
def test_another_users_directory_is_refused(home: Path) -> None:
    data = directory(home)
    data.furnish()
    os.chown(home, UID, UID)
    with pytest.raises(CannotStartError, match=f"belongs to uid {UID}"):
        data.inspect()


def test_it_is_held_by_one_at_a_time(home: Path) -> None:
    data = directory(home / "data")
    with data.claimed(), pytest.raises(CannotStartError, match=f"process {os.getpid()}.*{home}"), data.claimed():
        pass
    with data.claimed():
        pass


def test_furnishing_makes_what_is_missing_and_keeps_what_is_there(home: Path) -> None:
    data = directory(home / "data")
    with data.claimed():
        data.furnish()
        kept = {
            name: (data.path / name).read_bytes() for name in ("faaspot.json", "keys/redis-password", "keys/spot.key")
        }
        data.furnish()
    assert {name: (data.path / name).read_bytes() for name in kept} == kept
    assert len(kept["keys/spot.key"]) == len((data.path / "keys/spot.pub").read_bytes()) == 32
    assert mode(data.path) == 0o700
    assert {mode(data.path / name) for name in ("keys", "db", "blobs", "run", "logs")} == {0o700}
    assert mode(data.path / "keys/redis-password") == mode(data.path / "keys/spot.key") == 0o600
    data.inspect()


def test_a_start_that_was_cut_short_can_be_done_again(home: Path) -> None:
    data = directory(home / "data")
    with data.claimed():
        data.inspect()
        data.furnish()
    (data.path / "keys" / "spot.pub").unlink()
    data.inspect()
    data.furnish()
    assert (data.path / "keys" / "spot.pub").exists()


def test_the_private_redis_password_goes_when_another_redis_is_used(home: Path) -> None:
    data = directory(home / "data")
    with data.claimed():
        data.furnish()
        data.furnish(own_redis=False)
    assert not data.password.exists()


@needs_root
def test_started_as_root_the_services_own_what_they_write_and_nothing_else(home: Path) -> None:
    data = directory(home / "data", UID)
    with data.claimed():
        data.furnish()
    owners = {path.name: path.stat().st_uid for path in (*data.path.iterdir(), *(data.path / "keys").iterdir())}
    theirs = {name for name, owner in owners.items() if owner == UID}
    assert theirs == {"db", "blobs", "run", "redis-password"}
    assert mode(data.path) == mode(data.path / "keys") == 0o711
    assert mode(data.path / "keys" / "spot.key") == 0o600


@needs_root
def test_a_new_volume_with_another_owner_becomes_ours_and_is_so_at_the_next_start(home: Path) -> None:
    """As an engine gives it: with the owner that the image's directory has."""
    (home / "data").mkdir(mode=0o700)
    os.chown(home / "data", UID, UID)
    for _ in range(2):
        data = directory(home / "data", UID)
        data.inspect()
        with data.claimed():
            data.furnish()


@needs_root
def test_files_of_another_service_uid_are_refused_with_what_to_do(home: Path) -> None:
    directory(home / "data", UID).path.mkdir()
    directory(home / "data", UID).furnish()
    with pytest.raises(CannotStartError, match=f"FAASPOT_SERVICE_UID={UID}"):
        directory(home / "data", UID + 1).furnish()


def test_what_a_killed_platform_left_in_run_is_taken_away(home: Path) -> None:
    data = directory(home / "data")
    data.path.mkdir()
    data.furnish()
    (data.path / "run" / "key.pem").write_text("secret")
    (data.path / "run" / "metrics").mkdir()
    (data.path / "run" / "metrics" / "counter_0.db").write_text("counts")
    data.furnish()  # also done beside a running platform
    assert (data.path / "run" / "metrics" / "counter_0.db").exists()
    data.clear_run()
    assert list((data.path / "run").iterdir()) == []


def test_a_written_file_is_whole_and_has_its_mode(home: Path) -> None:
    data = directory(home)
    data.write("x", b"one", 0o600)
    data.write("x", b"two", 0o640)
    assert ((home / "x").read_bytes(), mode(home / "x")) == (b"two", 0o640)
    assert [path.name for path in home.iterdir()] == ["x"]


def test_a_port_in_use_is_one_clear_line() -> None:
    with listen("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        assert url(first, "127.0.0.1", tls=False) == f"http://127.0.0.1:{port}"
        assert url(first, "0.0.0.0", tls=True) == f"https://127.0.0.1:{port}"
        with pytest.raises(CannotStartError, match=f"port {port} on 127.0.0.1 is in use"):
            listen("127.0.0.1", port)


def test_an_address_that_is_not_ours_is_one_clear_line() -> None:
    with pytest.raises(CannotStartError, match="not an address of this machine"):
        listen("192.0.2.1", 0)
    with pytest.raises(CannotStartError, match="--host"):
        listen("no such host.invalid", 0)


def test_an_ipv6_address_is_written_as_a_url_has_it() -> None:
    if not socket.has_ipv6:
        pytest.skip("this machine has no IPv6")
    try:
        listener = listen("::1", 0)
    except CannotStartError:
        pytest.skip("this machine has no IPv6 loopback")
    with listener:
        assert url(listener, "::1", tls=False).startswith("http://[::1]:")
