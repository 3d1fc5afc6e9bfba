"""Blobs that nothing refers to go; whatever is needed, or young, stays."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import delete

from faaspot_api.domain.model import Principal, RunOptions
from faaspot_api.errors import Forbidden, NotFound, TooLarge, Unprocessable
from faaspot_api.services.sweeping import ROUND_SECONDS, YOUNG_SECONDS, Sweeping
from faaspot_api.store import archives, retention
from faaspot_api.store.blobs import PARTS
from faaspot_api.store.engine import Transaction
from faaspot_api.store.tables import executions
from faaspot_runner.contract import LargeValue
from tests.control_plane import ADMIN, Plane, control_plane, failed


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[Plane]:
    with control_plane(tmp_path) as plane:
        plane.create()
        yield plane


def a_large(plane: Plane, content: bytes) -> tuple[str, str]:
    """A run whose output is that blob: its id, the digest."""
    digest = plane.blobs.put(content)
    uuid = plane.run()
    request = plane.take()
    plane.start(request)
    plane.finish(request, output=None, large=LargeValue(digest=digest, size=len(content)))
    return uuid, digest


def age(plane: Plane, *digests: str) -> None:
    then = time.time() - YOUNG_SECONDS - 60
    for digest in digests:
        os.utime(plane.blobs._path(digest), (then, then))


def sweep(plane: Plane) -> int:
    return sum(map(Sweeping(plane.store, plane.blobs).sweep, range(PARTS)))


def test_a_large_output_stays_as_long_as_its_record(plane: Plane) -> None:
    uuid, digest = a_large(plane, b'"large"')
    everything = [path.name for path in plane.blobs._root.glob("*/*")]
    age(plane, *everything)
    assert sweep(plane) == 0, "code and output are needed"
    with plane.store.write() as transaction:
        transaction.execute(delete(executions).where(executions.c.uuid == uuid))
    assert sweep(plane) == 1
    assert not plane.blobs.has(digest)


def test_what_is_young_or_was_put_again_stays(plane: Plane) -> None:
    young = plane.blobs.put(b"nobody refers to it yet")
    again = plane.blobs.put(b"nor to this")
    age(plane, again)
    plane.blobs.put(b"nor to this")
    left = plane.blobs._path(young).with_name(".new-left")
    left.write_text("a write that was killed")
    os.utime(left, (0, 0))
    assert sweep(plane) == 0
    assert plane.blobs.has(young)
    assert plane.blobs.has(again)
    assert not left.exists()


def test_what_is_put_again_while_it_is_swept_stays(plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = plane.blobs.put(b"nobody refers to it yet")
    age(plane, digest)
    look = retention.unneeded_blobs

    def put_again(transaction: Transaction, digests: Iterable[str]) -> frozenset[str]:
        found = look(transaction, digests)
        plane.blobs.put(b"nobody refers to it yet")
        return found

    monkeypatch.setattr(retention, "unneeded_blobs", put_again)
    assert sweep(plane) == 0
    assert plane.blobs.has(digest)


def test_one_part_a_minute(plane: Plane) -> None:
    digest = plane.blobs.put(b"nobody refers to it")
    age(plane, digest)
    sweeping = Sweeping(plane.store, plane.blobs)
    moments = [number * ROUND_SECONDS for number in range(int(digest[:2], 16) + 1)]
    assert [sweeping.pass_(at) for at in moments][-1] == 1
    assert sweeping.pass_(moments[-1] + 1) == 0


def test_an_output_is_read_from_its_record_or_its_blob(plane: Plane) -> None:
    uuid, _ = a_large(plane, b'"large"')
    record = plane.services.executions.get(ADMIN, uuid)
    assert (record.output, record.output_size) == (None, 7)
    found = plane.services.executions.output(ADMIN, uuid)
    assert (found.size, b"".join(found.pieces)) == (7, b'"large"')
    assert hashlib.sha256(b'"large"').hexdigest() == record.output_blob


def test_what_a_spot_brought_is_kept_for_its_record_and_counted_no_more_when_it_went(plane: Plane) -> None:
    content = b'"brought"'
    digest = hashlib.sha256(content).hexdigest()
    spot = Principal(name="spot-10-0-0-2", role="spot")
    plane.services.joining.keep_blob(spot, digest, len(content), [content])
    uuid, _ = a_large(plane, content)
    with plane.store.write() as transaction:
        archives.touch(transaction, digest, 1)
    plane.passes(0.0, 1e6)
    assert plane.blobs.has(digest), "a record has it"

    age(plane, digest)
    with plane.store.write() as transaction:
        transaction.execute(delete(executions).where(executions.c.uuid == uuid))
    assert sweep(plane) == 1
    with plane.store.read() as transaction:
        assert archives.total(transaction, spot.name) == 0


def test_large_args_stay_as_long_as_a_record_has_them(plane: Plane) -> None:
    taken = plane.services.executions.take_args(ADMIN, "hello", [b'{"n": ', b"1}"])
    first = plane.services.executions.run(ADMIN, "hello", taken).uuid
    request = plane.take()
    assert (request.args, request.large) == ("{}", taken)
    plane.start(request)
    plane.finish(request, **failed("worker_lost", "its spot is gone"))
    second = plane.take()
    assert (second.attempt, second.large) == (2, taken), "another attempt has them, too"
    plane.start(second)
    plane.finish(second)
    again = plane.services.reruns.rerun(ADMIN, first)
    third = plane.take()
    assert (third.execution_id, third.large) == (again, taken), "and whoever runs it again"
    plane.start(third)
    plane.finish(third)

    for uuid in (first, again):
        record = plane.record(uuid)
        assert (record.args, record.args_size) == (None, 8)
        age(plane, taken.digest)
        assert sweep(plane) == 0
        found = plane.services.executions.args(ADMIN, uuid)
        assert (found.size, b"".join(found.pieces)) == (8, b'{"n": 1}')
        with plane.store.write() as transaction:
            transaction.execute(delete(executions).where(executions.c.uuid == uuid))
    age(plane, taken.digest)
    assert sweep(plane) == 1
    assert not plane.blobs.has(taken.digest)


def test_large_args_nobody_may_send_are_not_read(plane: Plane) -> None:
    def unread() -> Iterator[bytes]:
        raise AssertionError("read")
        yield b""

    monitor = Principal(name="m", role="monitor")
    with pytest.raises(NotFound):
        plane.services.executions.take_args(ADMIN, "nobodys", unread())
    with pytest.raises(Forbidden):
        plane.services.executions.take_args(monitor, "hello", unread())
    small = iter([b"{" + b" " * (16 << 20)])
    plane.create("small", memory=16, tmp=1)
    with pytest.raises(TooLarge):
        plane.services.executions.take_args(ADMIN, "small", small)


def test_a_key_stands_for_the_same_large_args_alone(plane: Plane) -> None:
    service, options = plane.services.executions, RunOptions(key="k")
    one, other = (service.take_args(ADMIN, "hello", [text]) for text in (b'{"n": 1}', b'{"n": 2}'))
    first = service.run(ADMIN, "hello", one, options)
    assert service.run(ADMIN, "hello", one, options).uuid == first.uuid
    with pytest.raises(Unprocessable):
        service.run(ADMIN, "hello", other, options)
