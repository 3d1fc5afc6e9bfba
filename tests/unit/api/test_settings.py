"""The table of settings: arguments over environment over defaults; a bad value says what is taken."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from faaspot_api.settings import SettingError, Settings, add_arguments, from_arguments, inherited


def parsed(*arguments: str) -> Settings:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return from_arguments(parser.parse_args(arguments))


def test_every_option_has_a_help_sentence_and_its_type() -> None:
    for option in Settings.options():
        assert option.help.endswith((".", ").")), option.name
        assert isinstance(option.default, option.kind), option.name


def test_an_argument_wins_over_the_environment_and_that_over_the_default() -> None:
    environ = {"FAASPOT_PORT": "9001", "FAASPOT_HOST": "::1"}
    settings = Settings.load({"port": 9002, "host": None}, environ)
    assert (settings.port, settings.host, settings.workers) == (9002, "::1", 2)


def test_the_command_line_reads_the_environment_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAASPOT_GRACE", "3")
    settings = parsed("--port", "0", "--allow-process-runtime", "--data-dir", "/srv/x")
    assert settings == Settings(port=0, grace=3.0, allow_process_runtime=True, data_dir=Path("/srv/x"))


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("port", "http", "--port: 'http' is not a whole number"),
        ("port", "65536", "the most is 65535"),
        ("port", "-1", "the least is 0"),
        ("grace", "nan", "--grace"),
        ("grace", "inf", "--grace"),
        ("redis_fsync", "sometimes", "always, everysec, no"),
        ("access_log", "maybe", "is not yes or no"),
    ],
)
def test_a_bad_value_names_the_setting_and_what_it_takes(name: str, text: str, words: str) -> None:
    with pytest.raises(SettingError, match=words):
        Settings.load({}, {f"FAASPOT_{name.upper()}": text})


def test_an_unknown_setting_is_refused() -> None:
    with pytest.raises(SettingError, match="prot"):
        Settings.load({"prot": 1}, {})


def test_a_child_loads_equal_settings_from_its_environment() -> None:
    settings = Settings.load({"port": 1, "access_log": True, "redis_url": "redis://:pw@h/0", "grace": 2.5}, {})
    assert Settings.load({}, settings.environment()) == settings
    assert "FAASPOT_REDIS_URL" not in settings.environment(leave_out=("redis_url",))


def test_the_inherited_environment_has_none_of_our_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAASPOT_TOKEN", "secret")
    monkeypatch.setenv("FAASPOT_SPOT_SANDBOXES", "7")
    assert "FAASPOT_TOKEN" not in inherited()
    assert inherited()["FAASPOT_SPOT_SANDBOXES"] == "7"


@pytest.mark.parametrize(
    ("url", "shown", "secret"),
    [
        ("redis://:p%40w@host:1/2", "redis://host:1/2", "p@w"),
        ("rediss://user:pw@host/0", "rediss://user@host/0", "pw"),
        ("redis://host", "redis://host", None),
        ("unix:///run/redis.sock?db=1", "unix:///run/redis.sock?db=1", None),
    ],
)
def test_the_password_is_kept_out_of_the_redis_url(tmp_path: Path, url: str, shown: str, secret: str | None) -> None:
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "redis-password").write_text("of the private one")
    settings = Settings(data_dir=tmp_path, redis_url=url)
    assert (settings.redis, settings.redis_secret(), settings.own_redis) == (shown, secret, False)


def test_without_a_url_it_is_the_private_redis_in_the_data_directory(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    assert settings.redis == f"unix://{tmp_path}/redis/redis.sock"
    assert settings.redis_secret() is None
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "redis-password").write_text("pw\n")
    assert settings.redis_secret() == "pw"
    assert Settings(data_dir=tmp_path, redis_socket="/tmp/a b/s").redis == "unix:///tmp/a%20b/s"


def test_the_database_is_sqlite_in_the_data_directory_unless_said(tmp_path: Path) -> None:
    assert Settings(data_dir=tmp_path).database == f"sqlite:///{tmp_path}/db/faaspot.db"
    assert Settings(database_url="postgresql://x/y").database == "postgresql://x/y"


def test_a_secret_may_stand_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("of the file\n")
    environ = {"FAASPOT_REDIS_URL": "redis://h", "FAASPOT_REDIS_PASSWORD_FILE": str(tmp_path / "password")}
    assert Settings.load({}, environ).redis_secret() == "of the file"


def test_a_secret_that_is_said_twice_or_whose_file_is_away_is_refused(tmp_path: Path) -> None:
    name = str(tmp_path / "away")
    with pytest.raises(SettingError, match=r"FAASPOT_TOKEN_FILE: .*away cannot be read"):
        Settings.load({}, {"FAASPOT_TOKEN_FILE": name})
    with pytest.raises(SettingError, match="FAASPOT_TOKEN and FAASPOT_TOKEN_FILE are both set"):
        Settings.load({}, {"FAASPOT_TOKEN_FILE": name, "FAASPOT_TOKEN": "x"})


def test_what_is_no_secret_has_no_file(tmp_path: Path) -> None:
    assert Settings.load({}, {"FAASPOT_PORT_FILE": str(tmp_path / "away")}).port == 8000


def test_a_child_inherits_the_secret_and_not_its_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("t")
    monkeypatch.setenv("FAASPOT_TOKEN_FILE", str(tmp_path / "token"))
    assert "FAASPOT_TOKEN_FILE" not in inherited()
    assert Settings.load().environment()["FAASPOT_TOKEN"] == "t"


@pytest.mark.parametrize("url", ["postgresql+psycopg://me@h/db", "postgresql+psycopg://me:old@h/db"])
def test_the_databases_password_goes_into_its_url(url: str) -> None:
    settings = Settings.load({"database_url": url, "database_password": "a/b@c"}, {})
    assert settings.database == "postgresql+psycopg://me:a%2Fb%40c@h/db"
    assert "a/b" not in Settings.load({"database_password": "a/b@c"}, {}).database, "SQLite has none"
