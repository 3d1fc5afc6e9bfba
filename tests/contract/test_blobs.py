"""Blobs on every shelf: a directory and a bucket, as the API uses them and as a spot does."""

from __future__ import annotations

import hashlib
import io
import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from faaspot_api.domain.model import Principal
from faaspot_api.errors import TooLarge, Unavailable
from faaspot_api.services.sweeping import Sweeping
from faaspot_api.store.blobs import PARTS, Blobs, BrokenBlobError
from faaspot_api.store.shelves import Directory, Objects, Shelf
from faaspot_runner.blobs import BlobError
from faaspot_runner.blobs import Blobs as SpotBlobs
from faaspot_runner.contract.bucket import BucketAddress, BucketError, opened
from tests.control_plane import control_plane
from tests.object_stores import ObjectStore, object_store

pytestmark = pytest.mark.slow
_numbers = itertools.count()
MEGABYTE = 1024 * 1024


@pytest.fixture(scope="module")
def store() -> Iterator[ObjectStore]:
    with object_store() as running:
        yield running


@pytest.fixture
def address(store: ObjectStore) -> BucketAddress:
    return store.address(f"of/test-{next(_numbers)}")


@pytest.fixture(params=["directory", "bucket"])
def shelf(request: pytest.FixtureRequest, tmp_path: Path) -> Shelf:
    if request.param == "directory":
        return Directory(tmp_path / "blobs")
    return Objects(opened(request.getfixturevalue("address")))


@pytest.fixture
def blobs(shelf: Shelf, tmp_path: Path) -> Blobs:
    return Blobs(tmp_path / "blobs", shelf)


def left(tmp_path: Path) -> list[Path]:
    return list((tmp_path / "blobs" / "new").glob("*"))


def all_of(blobs: Blobs, seconds: float = -5.0) -> set[str]:
    return {digest for part in range(PARTS) for digest in blobs.old(part, seconds)}


def test_what_was_put_comes_back_under_its_digest(blobs: Blobs, tmp_path: Path) -> None:
    digest = blobs.put(b"code")
    assert digest == blobs.put(b"code") == hashlib.sha256(b"code").hexdigest()
    assert blobs.get(digest) == b"code"
    size, pieces = blobs.open(digest)
    assert (size, b"".join(pieces)) == (4, b"code")
    assert blobs.has(digest)
    assert left(tmp_path) == []


def test_what_is_deleted_is_gone(blobs: Blobs) -> None:
    digest = blobs.put(b"x")
    blobs.delete(digest)
    blobs.delete(digest)
    assert not blobs.has(digest)
    for read in (blobs.get, blobs.open):
        with pytest.raises(BrokenBlobError, match="missing"):
            read(digest)
    assert blobs.put(b"x") == digest
    assert blobs.has(digest)


def test_large_ones_come_and_go_in_pieces(blobs: Blobs, tmp_path: Path) -> None:
    content = [os.urandom(MEGABYTE)] * 40
    digest = hashlib.sha256(b"".join(content)).hexdigest()
    taken = blobs.take(iter(content), 40 * MEGABYTE)
    assert (taken.digest, taken.size) == (digest, 40 * MEGABYTE)
    size, pieces = blobs.open(digest)
    found, largest = hashlib.sha256(), 0
    for piece in pieces:
        found.update(piece)
        largest = max(largest, len(piece))
    assert (size, found.hexdigest()) == (40 * MEGABYTE, digest)
    assert largest < 20 * MEGABYTE
    assert left(tmp_path) == []


def test_what_is_too_much_or_not_what_it_says_is_not_kept(blobs: Blobs, tmp_path: Path) -> None:
    with pytest.raises(TooLarge):
        blobs.take([b"12345", b"6"], 5)
    with pytest.raises(BrokenBlobError, match="has the digest"):
        blobs.put_all("a" * 64, [b"x"])
    with pytest.raises(BrokenBlobError, match="no"):
        blobs.put_all("../../x", [b"x"])
    assert all_of(blobs) == set()
    assert left(tmp_path) == []
    digest = hashlib.sha256(b"xy").hexdigest()
    blobs.put_all(digest, [b"x", b"y"])
    assert blobs.get(digest) == b"xy"


def test_old_ones_are_found_by_part_and_put_again_they_are_young(blobs: Blobs) -> None:
    digests = {blobs.put(str(number).encode()) for number in range(5)}
    assert all_of(blobs) == digests
    one = next(iter(digests))
    assert one in blobs.old(int(one[:2], 16), -5.0)
    assert all_of(blobs, 60.0) == set()


def test_spots_of_other_hosts_have_them_from_the_api_and_bring_them_there(blobs: Blobs, tmp_path: Path) -> None:
    spot, result = Principal(name="spot-10-0-0-2", role="spot"), b"x" * (9 * MEGABYTE)
    digest = hashlib.sha256(result).hexdigest()
    with control_plane(tmp_path, blobs=blobs) as plane:
        plane.create()
        code = plane.run() and plane.take().sandbox.code
        _, pieces = plane.services.joining.blob(spot, code)
        assert hashlib.sha256(b"".join(pieces)).hexdigest() == code
        plane.services.joining.keep_blob(spot, digest, len(result), iter([result]))
        size, pieces = plane.services.joining.blob(spot, digest)
        assert (size, b"".join(pieces)) == (len(result), result)
        sweeping = Sweeping(plane.store, blobs, young=-5.0)
        assert sum(map(sweeping.sweep, range(PARTS))) == 1, "nothing refers to what it brought"
        assert (blobs.has(code), blobs.has(digest)) == (True, False)


def test_it_says_where_it_is_and_that_it_can_be_used(blobs: Blobs, shelf: Shelf) -> None:
    blobs.check()
    assert str(blobs) == str(shelf)


# ---------------------------------------------------------------- a bucket alone


def test_a_bucket_that_is_away_is_a_503_and_takes_nothing_with_it(tmp_path: Path) -> None:
    nowhere = BucketAddress(url="s3://b/x", endpoint="http://127.0.0.1:1", key_id="id", secret="a-secret-text")
    blobs = Blobs(tmp_path / "blobs", Objects(opened(nowhere)))
    uses: tuple[Callable[[], object], ...] = (
        lambda: blobs.put(b"x"), lambda: blobs.get("a" * 64), lambda: blobs.has("a" * 64), blobs.check,
        lambda: blobs.take([b"x"], 1), lambda: blobs.old(0, 0),
    )  # fmt: skip
    for use in uses:
        with pytest.raises(Unavailable) as raised:
            use()
        assert raised.value.code == "storage_unavailable"
    assert left(tmp_path) == []
    with pytest.raises(BucketError) as said:
        opened(nowhere).claim("me")
    assert "127.0.0.1:1" in str(said.value)
    assert "a-secret-text" not in str(said.value)


def test_a_bucket_is_of_one_platform(address: BucketAddress, store: ObjectStore) -> None:
    opened(address).claim("one")
    opened(address).claim("one")
    with pytest.raises(BucketError, match="another platform"):
        opened(address).claim("two")
    missing = BucketAddress(url="s3://no-such-bucket/x", endpoint=store.endpoint, key_id="id", secret="text")
    for use in (lambda: opened(missing).claim("one"), lambda: opened(missing).check()):
        with pytest.raises((BucketError, FileNotFoundError), match="no-such-bucket"):
            use()


@pytest.mark.parametrize(
    "said",
    [
        {"url": "http://b/x"}, {"url": "s3://"}, {"url": "s3://u:p@b/x"}, {"url": "s3://b?x=1"},
        {"url": "s3://b", "endpoint": "host:9000"}, {"url": "s3://b", "key_id": "id"}, {"url": "s3://b", "secret": "x"},
    ],
)  # fmt: skip
def test_what_is_no_address_is_refused(said: dict[str, str]) -> None:
    with pytest.raises(BucketError):
        opened(BucketAddress(**said))


# ---------------------------------------------------------------- a spot beside the API


def test_a_spot_fetches_what_it_needs_once_and_keeps_what_is_new_there(address: BucketAddress, tmp_path: Path) -> None:
    api = Blobs(tmp_path / "api", Objects(opened(address)))
    spot = SpotBlobs(tmp_path / "spot", lambda: opened(address))
    digest = api.put(b"code")
    assert spot.read(digest) == b"code"
    api.delete(digest)
    assert spot.read(digest) == b"code", "from its own directory"
    result = b"x" * (20 * MEGABYTE)
    name = hashlib.sha256(result).hexdigest()
    with spot.spool() as file:
        file.write(result)
        file.flush()
        spot.keep(file, name)
    assert api.get(name) == result
    with pytest.raises(BlobError, match="could not be fetched"):
        spot.read("a" * 64)


def test_a_spot_takes_nothing_that_is_not_what_its_name_says(address: BucketAddress, tmp_path: Path) -> None:
    bucket, digest = opened(address), "a" * 64
    bucket.put(digest, b"something else")
    spot = SpotBlobs(tmp_path / "spot", lambda: bucket)
    with pytest.raises(BlobError, match="other bytes"):
        spot.read(digest)
    with pytest.raises(OSError, match="other bytes"):
        bucket.fetch(digest, io.BytesIO())
    assert [path for path in (tmp_path / "spot").rglob("*") if path.is_file()] == []
