"""Spots of other hosts: who lets them in, at which address, and what they may have then."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

from faaspot_api.domain.model import Principal
from faaspot_api.errors import ApiError, Conflict, Forbidden, Invalid, NotFound, TooLarge, Unauthorized, Unavailable
from faaspot_api.services import joining
from faaspot_api.services.joining import Admission
from faaspot_runner.contract import ENVIRONMENTS_SECONDS, SUPERVISOR, BuildOutcome, Error, RunEnded, SpotRequest
from faaspot_runner.contract.spots import Wish
from tests.control_plane import ADMIN, ANN, LOCK, Plane, a_spot, control_plane

KEY = base64.b64encode(bytes(32)).decode()
HOSTS = Principal(name="hosts", role="join")
IP = "10.0.0.2"


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[Plane]:
    with control_plane(tmp_path) as plane:
        yield plane


def joined(plane: Plane, who: Principal = ADMIN, ip: str = IP, error: Error | None = None) -> Admission:
    """A join that the supervisor, played here, lets through or refuses."""

    def supervise() -> None:
        request = plane.queue.take(SUPERVISOR, 10)
        assert isinstance(request, SpotRequest)
        assert (request.action, request.ip, request.key) == ("admit", ip, KEY)
        event = RunEnded(
            execution_id=request.execution_id, attempt=1, token=request.token, spot=ip, at=0.0,
            status="Failure" if error else "Success", error=error, output=json.dumps("sealed"),
        )  # fmt: skip
        plane.queue.reply(event)

    supervisor = threading.Thread(target=supervise)
    supervisor.start()
    try:
        return plane.services.joining.join(who, ip, KEY)
    finally:
        supervisor.join()


def test_a_spot_is_given_sealed_credentials_and_a_token_for_blobs(plane: Plane) -> None:
    admission = joined(plane, HOSTS)
    assert (admission.ip, admission.credentials) == (IP, "sealed")
    assert plane.queue.joined == {IP}
    spot = plane.services.tokens.authenticate(admission.token)
    assert (spot.name, spot.role) == ("spot-10.0.0.2", "spot")
    content = b"packed"
    digest = sha256(content).hexdigest()
    plane.services.joining.keep_blob(spot, digest, 6, [content[:3], content[3:]])
    size, pieces = plane.services.joining.blob(spot, digest)
    assert (size, b"".join(pieces)) == (6, content)


def test_a_spot_may_do_nothing_but_that(plane: Plane) -> None:
    spot = plane.services.tokens.authenticate(joined(plane).token)
    services = plane.services
    for call in (
        lambda: services.deployments.list(spot),
        lambda: services.executions.run(spot, "hello", "{}"),
        lambda: services.spots.list(spot),
        lambda: services.tokens.list(spot),
        lambda: services.joining.join(spot, "10.0.0.3", KEY),
        lambda: services.joining.blob(HOSTS, "0" * 64),
        lambda: services.joining.blob(ADMIN, "0" * 64),
        lambda: services.joining.join(ANN, IP, KEY),
    ):
        with pytest.raises(Forbidden):
            call()


def test_bytes_that_are_not_those_of_their_digest_are_not_kept(plane: Plane) -> None:
    spot = plane.services.tokens.authenticate(joined(plane).token)
    digest = "0" * 64
    with pytest.raises(Invalid):
        plane.services.joining.keep_blob(spot, digest, 5, [b"other"])
    with pytest.raises(NotFound):
        plane.services.joining.blob(spot, digest)


def brought(plane: Plane, who: Principal, content: bytes) -> str:
    """A packed environment that this spot brings; its digest."""
    digest = sha256(content).hexdigest()
    plane.services.joining.keep_blob(who, digest, len(content), [content])
    return digest


def test_a_spot_brings_so_much_and_no_more(tmp_path: Path) -> None:
    with control_plane(tmp_path, max_archives=10) as plane:
        first, second = (plane.services.tokens.authenticate(joined(plane, ip=ip).token) for ip in (IP, "10.0.0.3"))
        brought(plane, first, b"123456")
        brought(plane, first, b"123456")  # the same again is no more
        with pytest.raises(TooLarge, match="FAASPOT_MAX_ARCHIVES") as raised:
            brought(plane, first, b"54321")
        assert raised.value.code == "spot_storage_full"
        with pytest.raises(Invalid):
            plane.services.joining.keep_blob(first, "0" * 64, 4, [b"fake"])
        brought(plane, first, b"4321")  # what did not come is not counted
        brought(plane, second, b"54321")  # nor what another brought
        assert len(plane.blob_files()) == 3


def test_what_no_version_took_goes_and_is_not_counted_any_more(tmp_path: Path) -> None:
    with control_plane(tmp_path, max_archives=6, archive_seconds=0.0) as plane:
        spot = plane.services.tokens.authenticate(joined(plane).token)
        taken = brought(plane, spot, b"abc")
        plane.create(requirements="requests")
        plane.build(build=BuildOutcome(lock="l", environment="e", archive=taken))
        stray = brought(plane, spot, b"def")
        plane.passes(0.0, 2 * ENVIRONMENTS_SECONDS)
        assert taken in plane.blob_files()
        assert stray not in plane.blob_files()
        brought(plane, spot, b"ghi")
        plane.services.deployments.delete(ADMIN, "hello")
        assert taken not in plane.blob_files()
        brought(plane, spot, b"jkl")


@pytest.mark.parametrize(
    ("ip", "key"), [("nowhere", KEY), ("fe80::1%*", KEY), (IP, "x"), (IP, base64.b64encode(b"short").decode())]
)
def test_what_is_no_address_or_no_key_is_refused(plane: Plane, ip: str, key: str) -> None:
    with pytest.raises(Invalid):
        plane.services.joining.join(ADMIN, ip, key)


def test_an_address_is_one_spots_alone_while_it_lives(plane: Plane) -> None:
    first = plane.services.tokens.authenticate(joined(plane).token)
    info = replace(a_spot(IP), remote=True)
    plane.queue.heartbeat(info)
    with pytest.raises(Conflict, match="already"):
        plane.services.joining.join(HOSTS, IP, KEY)
    plane.queue.heartbeat(replace(info, status="draining"))
    with pytest.raises(Conflict, match="already"):
        plane.services.joining.join(HOSTS, IP, KEY)
    again = joined(plane, first)  # itself, by its own token, which ends
    with pytest.raises(Unauthorized):
        plane.services.tokens.authenticate("fas_old")
    plane.queue.heartbeat(info, age=60)
    third = joined(plane, HOSTS)  # it has been silent: another host takes its place
    assert len({again.token, third.token}) == 2
    with pytest.raises(Unauthorized):
        plane.services.tokens.authenticate(again.token)


def test_the_address_of_a_spot_of_this_machine_is_never_given(plane: Plane) -> None:
    plane.queue.heartbeat(a_spot("127.0.0.1"), age=60)
    with pytest.raises(Conflict, match="already"):
        plane.services.joining.join(ADMIN, "127.0.0.1", KEY)


def test_the_supervisors_refusal_and_its_silence_are_told(plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Conflict, match="takes no spots"):
        joined(plane, error=Error(type="SpotError", message="This platform takes no spots of other hosts."))
    monkeypatch.setattr(joining, "ADMIT_SECONDS", 0.01)
    with pytest.raises(Unavailable, match=r"supervisor.*--profile hosts") as raised:
        plane.services.joining.join(ADMIN, IP, KEY)
    assert isinstance(raised.value, ApiError)
    assert plane.queue.joined == frozenset()


def test_an_admission_that_nobody_waits_for_is_not_made_later(plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would end the credentials of the spot that was let in meanwhile."""
    monkeypatch.setattr(joining, "ADMIT_SECONDS", 0.01)
    with pytest.raises(Unavailable):
        plane.services.joining.join(ADMIN, IP, KEY)
    request = plane.queue.take(SUPERVISOR)
    assert isinstance(request, SpotRequest)
    assert request.expires is not None
    assert request.expires <= time.time()
    plane.services.reconciler.pass_(0.0)
    assert plane.record(request.execution_id).status == "Failure"


def test_one_that_is_removed_loses_its_token_at_once_and_is_told_to_leave(plane: Plane) -> None:
    admission = joined(plane)
    plane.queue.heartbeat(replace(a_spot(IP), remote=True))
    plane.services.spots.remove(ADMIN, IP)
    request = plane.queue.take(SUPERVISOR)
    assert isinstance(request, SpotRequest)
    assert (request.action, request.ip) == ("dismiss", IP)
    assert plane.queue.wishes == {IP: Wish(draining=True, leaving=True)}
    with pytest.raises(Unauthorized):
        plane.services.tokens.authenticate(admission.token)
    plane.services.reconciler.pass_(0.0)
    assert plane.queue.joined == {IP}
    plane.queue.heartbeat(replace(a_spot(IP), remote=True), age=60)
    plane.services.reconciler.pass_(2.0)
    assert (plane.queue.wishes, plane.queue.joined) == ({}, frozenset())


def test_what_is_wanted_is_said_again_to_a_server_that_came_back_empty(plane: Plane) -> None:
    plane.queue.heartbeat(a_spot("127.0.0.1"))
    plane.services.spots.drain(ADMIN, "127.0.0.1", True)
    plane.services.spots.update(ADMIN, 1, 3, "127.0.0.1")
    plane.queue.wishes.clear()
    plane.services.reconciler.pass_(0.0)
    assert plane.queue.wishes == {"127.0.0.1": Wish(draining=True, least=1, most=3)}
    with pytest.raises(Invalid):
        plane.services.spots.update(ADMIN, None, 0, "127.0.0.1")


def test_one_that_never_told_of_itself_can_be_removed(plane: Plane) -> None:
    joined(plane)
    plane.services.spots.remove(ADMIN, IP)
    request = plane.queue.take(SUPERVISOR)
    assert isinstance(request, SpotRequest)
    assert request.action == "dismiss"
    plane.services.reconciler.pass_(0.0)
    assert plane.queue.joined == frozenset()


def test_what_was_wanted_of_a_spot_goes_with_it(plane: Plane) -> None:
    plane.queue.heartbeat(a_spot("127.0.0.1"))
    plane.services.spots.drain(ADMIN, "127.0.0.1", True)
    plane.services.spots.remove(ADMIN, "127.0.0.1")
    assert plane.queue.wishes == {}


@pytest.mark.parametrize("missing", [True, False], ids=["digest of nothing", "path of another file"])
def test_what_a_spot_calls_its_archive_is_never_another_file(plane: Plane, missing: bool) -> None:
    other = plane.home / "other"
    other.write_text("kept")
    plane.create(requirements="requests")
    plane.build(build=BuildOutcome(lock=LOCK, environment="0" * 32, archive="f" * 64 if missing else str(other)))
    plane.run()
    assert plane.take().sandbox.archive is None
    plane.services.deployments.delete(ADMIN, "hello")
    plane.passes(0.0)
    assert other.read_text() == "kept"
