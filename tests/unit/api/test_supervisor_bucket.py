"""A platform with its blobs in a bucket: what its spots are told, and what is looked at before a start."""

from __future__ import annotations

from pathlib import Path

import pytest

from faaspot_api.settings import SettingError, Settings
from faaspot_api.supervisor import bucket
from faaspot_api.supervisor.directory import DataDirectory
from faaspot_api.supervisor.errors import CannotStartError
from faaspot_api.supervisor.programs import Programs
from faaspot_runner.contract.bucket import BucketAddress
from faaspot_runner.settings import read
from faaspot_runner.spot.broker import worker_arguments

ADDRESS = BucketAddress(
    url="s3://b/x", endpoint="http://127.0.0.1:1", region="eu-1", key_id="an-id", secret="a-secret-text"
)


def settings(home: Path) -> Settings:
    return Settings(
        data_dir=home,
        blobs=ADDRESS.url,
        bucket_endpoint=ADDRESS.endpoint,
        bucket_region=ADDRESS.region,
        bucket_key_id=ADDRESS.key_id,
        bucket_secret=ADDRESS.secret,
    )


def test_a_local_spot_and_its_workers_know_the_bucket_and_no_command_line_the_secret(tmp_path: Path) -> None:
    said = settings(tmp_path)
    assert said.bucket == ADDRESS
    directory = DataDirectory(path=tmp_path, uid=None)
    program = Programs(settings=said, directory=directory).spot("127.0.0.1", 1)
    of_spot = read(program.command[program.command.index("spot") + 1 :], {})
    of_worker = read(worker_arguments(of_spot), {})
    for each in (of_spot, of_worker):
        assert each.bucket_address(program.environ) == ADDRESS
        assert each.blob_directory == tmp_path / "cache" / "blobs"
    assert not any(ADDRESS.secret in word for word in program.command)
    plain = Programs(settings=Settings(data_dir=tmp_path), directory=directory).spot("127.0.0.1", 1)
    assert read(plain.command[plain.command.index("spot") + 1 :], {}).blob_directory == tmp_path / "blobs"
    assert not any("BUCKET" in name for name in plain.environ)


def test_the_secret_of_a_spot_may_stand_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("of the file\n")
    environ = {"FAASPOT_BUCKET_KEY_ID": "id", "FAASPOT_BUCKET_SECRET_FILE": str(tmp_path / "secret")}
    found = read(["--bucket", "s3://b"], {}).bucket_address(environ)
    assert (found.key_id, found.secret) == ("id", "of the file")


@pytest.mark.parametrize("said", [{"blobs": "/a/path"}, {"blobs": "s3://b", "bucket_key_id": "id"}])
def test_an_address_that_is_none_is_refused_when_it_is_said(said: dict[str, str]) -> None:
    with pytest.raises(SettingError, match="--blobs: "):
        Settings.load(said, {})


def test_a_platform_that_has_blobs_in_its_directory_is_told_to_move_them(tmp_path: Path) -> None:
    directory = DataDirectory(path=tmp_path, uid=None)
    directory.furnish()
    (tmp_path / "blobs" / "ab").mkdir()
    (tmp_path / "blobs" / "ab" / "abc").write_text("code")
    with pytest.raises(CannotStartError, match=r"Copy what is in it to s3://b/x"):
        bucket.claim(settings(tmp_path), directory)


def test_one_that_cannot_be_reached_is_named_and_its_secret_is_not(tmp_path: Path) -> None:
    directory = DataDirectory(path=tmp_path, uid=None)
    directory.furnish()
    with pytest.raises(CannotStartError) as raised:
        bucket.claim(settings(tmp_path), directory)
    assert str(raised.value).startswith("--blobs: s3://b/x failed")
    assert ADDRESS.secret not in str(raised.value)
    bucket.claim(Settings(data_dir=tmp_path), directory)
