"""Profiles, and which of argument, environment and file wins."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
import yaml

from faaspot import config
from faaspot.config import Profile, Profiles
from faaspot.errors import BadProfile, ConfigError, NoProfile, ProfileExists


@pytest.fixture
def store() -> Profiles:
    return Profiles()


# ---------------------------------------------------------------- the file


def test_the_file_lies_where_the_environment_says(own_profiles: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Profiles().path == own_profiles / "fasconf.yaml"
    monkeypatch.setenv("FAASPOT_CONFIG", "other.yaml")
    assert Profiles().path == own_profiles / "other.yaml"
    monkeypatch.delenv("FAASPOT_DIR")
    assert Profiles().path == Path.home() / ".faaspot" / "other.yaml"


def test_the_first_profile_becomes_the_current_one_and_the_second_does_not(store: Profiles) -> None:
    store.create("a", token="t")
    store.create("b", token="t")

    assert store.current() == "a"
    assert list(store.list()) == ["a", "b"]


def test_the_file_has_the_form_that_all_clients_share(store: Profiles) -> None:
    store.create("a", host="faas.example.org", protocol="https", port="8443", token="secret")

    assert yaml.safe_load(store.path.read_text()) == {
        "faaspot": {
            "profile": "a",
            "profiles": {"a": {"host": "faas.example.org", "protocol": "https", "port": 8443, "token": "secret"}},
        }
    }


def test_the_file_and_its_folder_are_for_their_owner_only(store: Profiles) -> None:
    store.create("a", token="secret")

    assert stat.S_IMODE(store.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(store.path.parent.stat().st_mode) == 0o700
    store.path.chmod(0o644)
    store.update("a", token="other")
    assert stat.S_IMODE(store.path.stat().st_mode) == 0o600
    assert [each.name for each in store.path.parent.iterdir()] == ["fasconf.yaml"]


def test_a_file_of_an_old_client_is_read_and_what_we_do_not_know_is_kept(store: Profiles) -> None:
    store.path.parent.mkdir()
    store.path.write_text(
        "faaspot:\n  profile: old\n  colour: red\n  profiles:\n    old: {host: h, port: '443', ssl_trust_all: true,"
        " username: bob, password: pw, application: x}\nother: 1\n"
    )

    found = store.get("old")
    assert (found.host, found.port, found.ssl_trust_all, found.identified) == ("h", 443, True, True)
    store.create("new")
    content = yaml.safe_load(store.path.read_text())
    assert (content["other"], content["faaspot"]["colour"]) == (1, "red")
    assert content["faaspot"]["profiles"]["old"]["application"] == "x"


def test_a_link_to_the_file_stays_a_link(store: Profiles, tmp_path: Path) -> None:
    store.path.parent.mkdir()
    store.path.symlink_to(tmp_path / "real.yaml")
    (tmp_path / "real.yaml").write_text("")

    store.create("a", token="t")

    assert store.path.is_symlink()
    assert "token: t" in (tmp_path / "real.yaml").read_text()


@pytest.mark.parametrize("content", ["- a\n", "faaspot: 3\n", "faaspot: {profiles: [1]}\n", "a: [\n", "\xff"])
def test_a_file_that_is_something_else_is_one_clear_error(store: Profiles, content: str) -> None:
    store.path.parent.mkdir()
    store.path.write_text(content, encoding="latin-1")

    with pytest.raises(ConfigError, match=r"fasconf\.yaml"):
        store.list()


@pytest.mark.parametrize("content", ["", "faaspot:\n", "faaspot: {profiles: null}\n"])
def test_an_empty_file_has_no_profiles(store: Profiles, content: str) -> None:
    store.path.parent.mkdir()
    store.path.write_text(content)

    assert (store.list(), store.current()) == ({}, None)


def test_a_profile_that_exists_is_only_changed_when_asked(store: Profiles) -> None:
    store.create("a", token="one", username="bob")

    with pytest.raises(ConfigError, match="exists already"):
        store.create("a", token="two")
    assert store.create("a", token="two", update_if_exist=True) == Profile(token="two", username="bob")


def test_use_wants_an_identity(store: Profiles) -> None:
    store.create("a", token="t")
    store.create("b", username="bob")

    with pytest.raises(ConfigError, match="no token"):
        store.use("b")
    store.update("b", password="pw")
    store.use("b")
    assert store.current() == "b"


def test_deleting_the_current_profile_leaves_none(store: Profiles) -> None:
    store.create("a", token="t")
    store.delete("a")

    assert (store.current(), store.list()) == (None, {})
    with pytest.raises(ConfigError, match="no profile 'a'"):
        store.delete("a")


@pytest.mark.parametrize("values", [{"port": "x"}, {"port": 70_000}, {"port": -1}, {"protocol": "ftp"}, {"hots": "x"}])
def test_what_a_profile_cannot_hold_is_refused_and_nothing_is_written(
    store: Profiles, values: dict[str, object]
) -> None:
    with pytest.raises(ConfigError):
        store.create("a", **values)
    assert not store.path.exists()


# ---------------------------------------------------------------- addresses


@pytest.mark.parametrize(
    ("profile", "url"),
    [
        (Profile(), "http://127.0.0.1:8000"),
        (Profile(host="localhost", port=9000), "http://localhost:9000"),
        (Profile(host="127.0.0.1", port=443), "https://127.0.0.1"),
        (Profile(host="faas.example.org"), "https://faas.example.org"),
        (Profile(host="faas.example.org", protocol="http"), "http://faas.example.org"),
        (Profile(host="faas.example.org", port=8443), "https://faas.example.org:8443"),
        (Profile(host="::1"), "http://[::1]:8000"),
        (Profile(host="https://x.org/faas/"), "https://x.org/faas"),
    ],
)
def test_the_address_of_a_profile(profile: Profile, url: str) -> None:
    assert profile.url == url


def test_a_url_given_as_host_is_kept_in_its_parts(store: Profiles) -> None:
    store.create("a", host="http://10.0.0.7:9000")
    store.create("b", host="https://faas.example.org", port=8443)
    store.create("c", host="https://x.org/faas")

    assert store.get("a") == Profile(host="10.0.0.7", protocol="http", port=9000)
    assert store.get("b") == Profile(host="faas.example.org", protocol="https", port=8443)
    assert store.get("c").url == "https://x.org/faas"
    for wrong in ("ftp://x", "https://", "http://x:99999"):
        with pytest.raises(ConfigError, match="not the address"):
            store.create("d", host=wrong)


def test_secrets_are_masked_for_people() -> None:
    assert Profile(host="h", token="secret", password="pw").masked() == {"host": "h", "password": "***", "token": "***"}


# ---------------------------------------------------------------- what wins


def test_without_anything_it_says_how_to_begin() -> None:
    with pytest.raises(NoProfile, match=r"FaaSpot profile was not set\. Create a profile using profiles command\."):
        config.resolve()


def test_arguments_win_over_the_environment_and_that_over_the_file(
    store: Profiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.create("file", host="file.example.org", token="of-file")
    store.create("named", host="named.example.org", token="of-named")
    assert config.resolve().host == "file.example.org"

    monkeypatch.setenv("FAASPOT_PROFILE", "named")
    assert config.resolve().token == "of-named"
    monkeypatch.setenv("FAASPOT_TOKEN", "of-environment")
    assert config.resolve().token == "of-environment"
    monkeypatch.delenv("FAASPOT_PROFILE")
    monkeypatch.setenv("FAASPOT_URL", "https://environment.example.org")
    assert config.resolve().url == "https://environment.example.org"

    assert config.resolve(profile="file").url == "https://file.example.org"
    assert config.resolve(profile="file").token == "of-file"
    assert config.resolve(host="argument.example.org:8443", token="mine").url == "https://argument.example.org:8443"
    assert config.resolve(token="mine").token == "mine"


def test_a_token_of_a_profile_never_travels_to_another_host(store: Profiles, monkeypatch: pytest.MonkeyPatch) -> None:
    store.create("file", host="file.example.org", token="of-file")

    assert config.resolve(host="elsewhere.example.org").token is None
    monkeypatch.setenv("FAASPOT_URL", "https://elsewhere.example.org")
    assert config.resolve().token is None
    assert config.resolve(profile="file", host="moved.example.org").token == "of-file"


@pytest.mark.parametrize("host", ["ftp://x", "https://", "h:port", "h:99999"])
def test_an_address_that_is_none_is_refused(host: str) -> None:
    with pytest.raises(ConfigError):
        config.resolve(host=host)


def test_an_unknown_profile_names_the_known_ones(store: Profiles) -> None:
    store.create("a", token="t")

    with pytest.raises(ConfigError, match="no profile 'b'") as caught:
        config.resolve(profile="b")
    assert caught.value.hint == "Known profiles: a."


def test_a_host_with_its_port_is_taken_apart_and_two_ports_are_refused(own_profiles: Path) -> None:
    store = Profiles()
    made = store.create("a", host="example.org:9000", token="T")

    assert (made.host, made.port, made.url) == ("example.org", 9000, "https://example.org:9000")
    assert store.update("a", port=5).url == "https://example.org:5"
    assert store.create("six", host="[::1]:9000").url == "http://[::1]:9000"
    assert store.create("bare", host="::1").port is None
    for wrong in ({"host": "example.org:9000", "port": 5}, {"host": "h:port"}, {"port": 99999}):
        with pytest.raises(BadProfile):
            store.create("wrong", **wrong)
    assert "wrong" not in store.list()


def test_a_name_that_is_taken_is_an_error_of_its_own(own_profiles: Path) -> None:
    Profiles().create("a", token="T")

    with pytest.raises(ProfileExists):
        Profiles().create("a", token="T")


def test_the_text_of_a_profile_shows_no_secret() -> None:
    assert "s3cret" not in repr(Profile(host="h", token="s3cret", password="s3cret"))


def test_the_origin_names_what_counts(own_profiles: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert config.origin() == config.Origin(address=None, token=None, profile=None)
    Profiles().create("a", token="T")
    assert config.origin() == config.Origin(address=None, token=None, profile="a")
    monkeypatch.setenv("FAASPOT_URL", "http://x")
    assert config.origin() == config.Origin(address="FAASPOT_URL", token=None, profile=None)
    monkeypatch.setenv("FAASPOT_TOKEN", "T")
    monkeypatch.setenv("FAASPOT_PROFILE", "b")
    assert config.origin() == config.Origin(address="FAASPOT_URL", token="FAASPOT_TOKEN", profile="b")
    assert config.origin("a") == config.Origin(address=None, token=None, profile="a")
