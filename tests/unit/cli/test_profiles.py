"""`fas profiles`: no platform is asked."""

from __future__ import annotations

from faaspot import Profiles
from fas.command import FAILED, UNREACHED, USAGE
from tests.unit.cli.conftest import Fas


def test_profiles_are_made_with_host_port_and_protocol(bare: Fas) -> None:
    bare("profiles", "create", "a", "--host", "faas.example.org", "--port", "8443", "--protocol", "https", "-t", "T")
    bare("profiles", "create", "b", "-u", "bob", "-p", "pw", "--host", "http://10.0.0.7:9000")

    table = bare("profiles", "list").stdout.splitlines()
    assert [line.split() for line in table] == [
        ["NAME", "URL"],
        ["*a*", "https://faas.example.org:8443"],
        ["b", "http://10.0.0.7:9000"],
    ]
    assert "***" in bare("profiles", "list", "-a").stdout
    assert "pw" not in bare("profiles", "list", "-a").stdout
    assert bare.json("profiles", "list")["a"]["current"] is True


def test_the_later_clients_form_of_create(bare: Fas) -> None:
    bare("profiles", "create", "-t", "T")
    bare("profiles", "create", "--name", "other", "-t", "T", "--set-as-active-profile")

    assert bare("profiles", "current").stdout == "other\n"
    assert bare.json("profiles", "current") == {"name": "other"}
    assert sorted(Profiles().list()) == ["default", "other"]


def test_update_use_get_and_delete(bare: Fas) -> None:
    bare("profiles", "create", "a", "-t", "T")
    bare("profiles", "create", "b")

    assert "no token" in bare("profiles", "use", "b", code=UNREACHED).stderr
    bare("profiles", "update", "b", "-t", "secret", "--trust-all")
    bare("profiles", "use", "b")
    shown = bare("profiles", "get", "b").stdout
    assert "secret" not in shown
    assert "token         | secret" in bare("profiles", "get", "b", "--show-secrets").stdout
    bare("profiles", "delete", "b")
    assert "not set" in bare("profiles", "current", code=UNREACHED).stderr
    assert "Nothing to update" in bare("profiles", "update", "a", code=USAGE).stderr
    bare("profiles", "create", "a", "-t", "other", "--update-if-exist")
    assert Profiles().get("a").token == "other"
    assert "exists already" in bare("profiles", "create", "a", code=FAILED).stderr
    assert "65535" in bare("profiles", "create", "c", "--port", "99999", code=USAGE).stderr
    assert "9000" in bare("profiles", "create", "c", "--host", "h:9000", "--port", "5", code=USAGE).stderr


def test_a_secret_is_read_from_stdin(bare: Fas) -> None:
    bare("profiles", "create", "a", "-t", "-", stdin="T0ken\n")

    assert Profiles().get("a").token == "T0ken"


def test_what_is_done_is_told_as_json_where_asked(bare: Fas) -> None:
    assert bare.json("profiles", "create", "a", "-t", "T") == {
        "name": "a",
        "url": "http://127.0.0.1:8000",
        "token": "***",
    }
    assert bare.json("profiles", "get", "a", "--show-secrets")["token"] == "T"
    assert bare.json("profiles", "delete", "a") == {"name": "a"}


def test_an_empty_list_says_what_to_do(bare: Fas) -> None:
    assert "fas profiles create" in bare("profiles", "list").stderr
