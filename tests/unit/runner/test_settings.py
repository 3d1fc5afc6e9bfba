"""The spot's settings: one table, three sources, clear complaints."""

from __future__ import annotations

from pathlib import Path

import pytest

from faaspot_runner.settings import PASSWORD_VARIABLE, SettingError, read


def test_an_argument_beats_the_environment_and_that_the_default() -> None:
    environ = {"FAASPOT_SPOT_GRACE": "5", "FAASPOT_SPOT_THREADS": "7"}
    settings = read(["--grace", "3"], environ)
    assert (settings.grace, settings.threads, settings.build_threads) == (3.0, 7, 2)


def test_workers_are_counted_by_queue() -> None:
    assert read(["--workers", "sync=3,builds=0"], {}).worker_counts == {"sync": 3, "builds": 0}


@pytest.mark.parametrize(
    ("argv", "complaint"),
    [
        (["--workers", "sync=many"], "--workers: 'sync=many' does not say how many workers, 0 to 64"),
        (["--workers", "other=1"], "--workers: 'other' is not one of the queues sync, background, builds"),
        (["--ip", "../etc"], "--ip: '../etc' is not an IP address"),
        (["--grace", "-1"], "--grace: -1 is too small, the least is 0"),
        (["--grace", "nan"], "--grace: 'nan' is not a number of seconds"),
        (["--threads", "x"], "--threads: 'x' is not a number"),
        (["--threads", "5000"], "--threads: 5000 is too large, the most is 1024"),
        (
            ["--runtime", "process"],
            "--runtime process isolates nothing: say --allow-process too if this is a development machine",
        ),
    ],
)
def test_a_bad_value_is_refused_with_its_name_and_what_it_takes(argv: list[str], complaint: str) -> None:
    with pytest.raises(SettingError) as caught:
        read(argv, {})
    assert str(caught.value) == complaint


def test_the_password_comes_from_the_environment_or_its_file_and_is_no_argument(tmp_path: Path) -> None:
    settings = read(["--data-dir", str(tmp_path)], {})
    assert settings.redis_password({}) is None
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "redis-password").write_text("from-file\n")
    assert settings.redis_password({}) == "from-file"
    assert settings.redis_password({PASSWORD_VARIABLE: "from-environment"}) == "from-environment"
    with pytest.raises(SystemExit):
        read(["--redis-password", "x"], {})


def test_the_password_may_stand_in_a_file_that_the_environment_names(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("of the file\n")
    settings = read(["--data-dir", str(tmp_path)], {})
    assert settings.redis_password({"FAASPOT_REDIS_PASSWORD_FILE": str(tmp_path / "password")}) == "of the file"
    with pytest.raises(FileNotFoundError, match="away"):
        settings.redis_password({"FAASPOT_REDIS_PASSWORD_FILE": str(tmp_path / "away")})


def test_the_blobs_may_be_elsewhere(tmp_path: Path) -> None:
    assert read(["--data-dir", str(tmp_path)], {}).blob_directory == tmp_path / "blobs"
    elsewhere = read(["--data-dir", str(tmp_path)], {"FAASPOT_SPOT_BLOBS": "/mnt/api/blobs"})
    assert elsewhere.blob_directory == Path("/mnt/api/blobs")
