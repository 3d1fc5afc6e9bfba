"""The published clients, unmodified, through every command that they have (W33 to W41).

They need a Python 2.7: `FAASPOT_PYTHON27`, else pyenv's. Any `platform` with `host`, `port` and `token` will do.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import old_clients
from tests.old_clients import PACKAGES, OldClient, Platform

HELLO = "def main(args, context):\n    return 'Hello {0}'.format(args.get('name', 'nobody'))\n"
BYE = "def main(args, context):\n    return 'Bye {0}'.format(args.get('name', 'nobody'))\n"
ECHO = "def main(args, context):\n    return args\n"
FAILS = "def main(args, context):\n    raise ValueError('no such luck')\n"
FOREVER = "import time\ndef main(args, context):\n    time.sleep(50)  # never ends\n"
pytestmark = pytest.mark.slow
later_clients = pytest.mark.parametrize("client", list(PACKAGES)[1:], indirect=True)
last_client = pytest.mark.parametrize("client", list(PACKAGES)[2:], indirect=True)

ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@pytest.fixture(scope="session")
def python27() -> str:
    found = old_clients.python27()
    if found is None:
        pytest.skip("no Python 2.7 for the published clients: set FAASPOT_PYTHON27")
    return found


@pytest.fixture(scope="session")
def sites(python27: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Each client in a directory of its own, installed once."""
    found = {}
    for name in PACKAGES:
        found[name] = tmp_path_factory.mktemp(name)
        old_clients.install(python27, name, found[name])
    return found


@pytest.fixture(params=PACKAGES)
def client(
    request: pytest.FixtureRequest, python27: str, sites: dict[str, Path], platform: Platform, tmp_path: Path
) -> OldClient:
    made = OldClient(request.param, python27, sites[request.param], tmp_path, platform)
    made.write_profile()
    return made


@pytest.fixture
def hello(client: OldClient) -> Iterator[str]:
    """A deployment that says hello."""
    yield from _deployed(client, HELLO)


@pytest.fixture
def echo(client: OldClient) -> Iterator[str]:
    """A deployment that returns its args."""
    yield from _deployed(client, ECHO)


@pytest.fixture
def forever(client: OldClient) -> Iterator[str]:
    """A deployment that does not end by itself within a test."""
    yield from _deployed(client, FOREVER)


def _deployed(client: OldClient, code: str) -> Iterator[str]:
    name = client.named(f"old-{uuid.uuid4().hex[:8]}")
    file(client, "code.py", code)
    created = client.fas(client.deployments, "create", name, "--file", "code.py", "--wait")
    assert "version 1" in created.out.lower(), created
    yield name
    client.fas(client.deployments, "delete", name)


def file(client: OldClient, name: str, text: str) -> str:
    (client.home / name).write_text(text)
    return name


# ---------------------------------------------------------------- deployments, functions


def test_create_prints_an_id_and_get_and_list_show_the_deployment(client: OldClient) -> None:
    name = client.named(f"old-{uuid.uuid4().hex[:8]}")
    file(client, "code.py", HELLO)
    file(client, "context.txt", 'secret = "hush"\n')
    more = ["-r", file(client, "requirements.txt", "# nothing\n")] if client.first else []
    created = client.fas(client.deployments, "create", name, "--file", "code.py", "-c", "context.txt", *more)
    assert ID.fullmatch(created.uuid), created
    assert client.fas("executions", "get", created.uuid, "--wait").out
    shown = client.fas(client.deployments, "get", name).out
    assert shown.rstrip().endswith("code:\n" + HELLO.rstrip())
    assert "hush" not in shown
    listed = client.fas(client.deployments, "list").rows()
    assert any(row[0] == name and name in row[-1] for row in listed), listed
    again = client.fas(client.deployments, "create", name, "--file", "code.py").out
    assert "409 (CONFLICT)" in again
    assert ID.search(client.fas(client.deployments, "delete", name).out)


def test_delete_is_gone_and_unknown_names_are_a_404(client: OldClient) -> None:
    name = client.named(f"old-{uuid.uuid4().hex[:8]}")
    for command in (("get",), ("run",), ("delete",)):
        said = client.fas(client.deployments, *command, name).out
        assert "Failed to run command." in said
        assert "404 (NOT FOUND): " in said


def test_run_prints_the_id_and_run_wait_the_result(client: OldClient, hello: str) -> None:
    started = client.fas(client.deployments, "run", hello, "-p", "name=user1")
    assert ID.fullmatch(started.uuid), started
    assert client.fas("executions", "get", started.uuid, "-w").result == "Hello user1"
    waited = client.fas(client.deployments, "run", hello, "-p", "name=user1", "--wait")
    assert waited.result == "Hello user1"
    assert client.fas(client.deployments, "run", hello, "--wait").result == "Hello nobody"
    if client.first:
        assert client.fas(client.deployments, "run", hello, "-w", "-i", "1").result == "Hello nobody"


def test_text_outside_ascii_arrives_both_ways(client: OldClient, hello: str) -> None:
    assert client.fas(client.deployments, "run", hello, "-p", "name=Jürgen & Co/%41?", "-w").result == (
        "Hello Jürgen & Co/%41?"
    )


@later_clients  # 0.0.13 cannot send a file outside ASCII (W11)
def test_code_outside_ascii_is_kept(client: OldClient) -> None:
    name = client.named(f"old-{uuid.uuid4().hex[:8]}")
    file(client, "code.py", "# -*- coding: utf-8 -*-\ndef main(args, context):\n    return u'Grüße 100%41'\n")
    created = client.fas(client.deployments, "create", name, "--file", "code.py", "--wait")
    assert "version 1" in created.out.lower(), created
    assert client.fas(client.deployments, "run", name, "--wait").result == "Grüße 100%41"
    client.fas(client.deployments, "delete", name)


def test_update_and_delete_with_wait(client: OldClient, hello: str) -> None:
    file(client, "new.py", BYE)
    if client.first:
        updated = client.fas(client.deployments, "update", hello, "-f", "new.py", "--wait")
        assert "version 2" in updated.out.lower(), updated
    else:
        # The later command cannot update a file: its own option has another name than its function's argument (W39).
        assert "No action requested" in client.fas(client.deployments, "update", hello, "-f", "new.py").out
        said = client.sdk(
            "from faaspot import Faaspot\n"
            f"result = Faaspot().functions.update({hello!r}, file='new.py', wait=True)"
        )  # fmt: skip
        assert "version 2" in said.lower()
    assert client.fas(client.deployments, "run", hello, "--wait").result == "Bye nobody"
    renamed = client.named(f"old-{uuid.uuid4().hex[:8]}")
    said = client.fas(client.deployments, "update", hello, "-n", renamed, "-w").out
    assert "Failed" not in said, said
    assert client.fas(client.deployments, "run", renamed, "--wait").result == "Bye nobody"
    assert "404" in client.fas(client.deployments, "get", hello).out
    arguments = () if client.first else ("-w",)
    assert "Failed" not in client.fas(client.deployments, "delete", renamed, *arguments).out
    assert "404" in client.fas(client.deployments, "get", renamed).out


def test_a_failure_of_the_function_is_shown_with_its_reason_phrase(client: OldClient) -> None:
    for name in _deployed(client, FAILS):
        said = client.fas(client.deployments, "run", name, "--wait").out
        assert "500 (INTERNAL SERVER ERROR): " in said
        assert "no such luck" in said
        started = client.fas(client.deployments, "run", name)
        assert "no such luck" in client.fas("executions", "get", started.uuid, "--wait").out


def test_samples_are_functions_that_run(client: OldClient) -> None:
    flags = ("--hello", "--fib", "--ping") if client.first else ("--hello-world", "--get-content", "--sleep")
    for flag in flags:
        assert "been created." in client.fas(client.deployments, "samples", flag).out
    assert "already exists." in client.fas(client.deployments, "samples", flags[0]).out
    assert "No action requested, need to select some sample.." in client.fas(client.deployments, "samples").out
    sample, args, result = ("fib.py", "num=10", "55") if client.first else ("hello-world.py", "name=x", "Hello x")
    for name in _deployed(client, (client.home / sample).read_text()):
        assert client.fas(client.deployments, "run", name, "-p", args, "--wait").result == result


def test_bulk_runs_and_reads(client: OldClient, echo: str) -> None:
    if client.first:
        module, word = "from fas.commands.deployments import Deployments as D; d = D()", "run"
    else:
        module, word = "from faaspot import Faaspot; d = Faaspot().functions", "run_bulk"
    ids = client.sdk(f"{module}\nresult = d.{word}({echo!r}, [{{'n': 1, 'l': [1, 2]}}, {{'n': 'x'}}])")
    assert len(ids) == 2
    for one in ids:
        client.fas("executions", "get", one, "--wait")
    if client.first:
        read = "from fas.commands.executions import Executions as E\nresult = E().get({ids!r})"
    else:
        read = "from faaspot import Faaspot\nresult = Faaspot().executions.get_bulk({ids!r})"
    records = client.sdk(read.format(ids=ids))
    assert [(one["uuid"], one["status"], one["output"]) for one in records] == [
        (ids[0], "Success", {"n": 1, "l": [1, 2]}),
        (ids[1], "Success", {"n": "x"}),
    ]


@later_clients  # 0.0.13 has no such commands
def test_the_commands_run_bulk_and_get_bulk(client: OldClient, echo: str) -> None:
    said = client.fas("functions", "run_bulk", echo, "-p", "k1=v1, k2=v2", "-p", "k1=w1")
    ids = [match.group() for match in ID.finditer(said.out)]
    assert len(ids) == 2, said
    for one in ids:
        client.fas("executions", "get", one, "--wait")
    shown = client.fas("executions", "get_bulk", "-u", ids[0], "-u", ids[1]).out
    assert shown.index(ids[0]) < shown.index(ids[1])
    assert "u'k2': u'v2'" in shown
    assert "404 (NOT FOUND)" in client.fas("executions", "get_bulk", "-u", str(uuid.uuid4())).out


# ---------------------------------------------------------------- executions


def test_executions_are_listed_and_cancelled(client: OldClient, forever: str) -> None:
    started = client.fas(client.deployments, "run", forever).uuid
    rows = client.fas("executions", "list", "-d", forever).rows()
    assert [row[3] for row in rows] == [started]
    assert rows[0][0] == forever
    assert "Failed" not in client.fas("executions", "cancel", started).out
    client.fas("executions", "get", started, "--wait")
    assert "u'Cancelled'" in client.fas("executions", "get", started).out
    assert client.fas("executions", "list", "-d", forever).rows() == []
    completed = client.fas("executions", "list", "-i", "-d", forever).rows()
    assert [row[1] for row in completed if row[3] == started] == ["Cancelled"]
    assert "409 (CONFLICT): " in client.fas("executions", "cancel", started).out


def test_an_unknown_execution_is_a_404(client: OldClient) -> None:
    for command in ("get", "cancel"):
        assert "404 (NOT FOUND): " in client.fas("executions", command, str(uuid.uuid4())).out


# ---------------------------------------------------------------- spots, nodes


def test_spots_are_added_looked_at_replaced_and_removed(client: OldClient) -> None:
    before = {row[0] for row in client.fas(client.spots, "list").rows()}
    assert before
    added = client.fas(client.spots, "add", "--wait").result
    assert {row[0] for row in client.fas(client.spots, "list").rows()} == before | {added}
    assert added in client.fas(client.spots, "get", added).out
    refreshed = client.fas(client.spots, "refresh_ip", "-i", added, "--wait").result
    replaced = ID.search(client.fas(client.spots, "replace", refreshed).out)
    assert replaced
    address = client.fas("executions", "get", replaced.group(), "--wait").result
    removed = client.fas(client.spots, "remove", "-i", address, "--wait")
    assert "Failed" not in removed.out, removed
    assert {row[0] for row in client.fas(client.spots, "list").rows()} == before
    assert "404 (NOT FOUND): " in client.fas(client.spots, "get", address).out


def test_a_spot_is_added_and_any_one_removed_without_waiting(client: OldClient) -> None:
    before = len(client.fas(client.spots, "list").rows())
    added = client.fas(client.spots, "add")
    assert client.fas("executions", "get", added.uuid, "--wait").result
    assert len(client.fas(client.spots, "list").rows()) == before + 1
    removed = client.fas(client.spots, "remove")
    client.fas("executions", "get", removed.uuid, "--wait")
    assert len(client.fas(client.spots, "list").rows()) == before


def test_spots_are_updated_and_all_refreshed(client: OldClient) -> None:
    # "2" > "10" is the client's own refusal (W39).
    assert "min should be lower" in client.fas(client.spots, "update", "--min", "2", "--max", "10").out
    said = client.fas(client.spots, "update", "--min", "2", "--max", "3").out
    assert "Failed" not in said, said
    assert ID.fullmatch(client.fas(client.spots, "refresh_ip").uuid)


# ---------------------------------------------------------------- profiles, and who asks


def test_profiles_are_the_clients_own_file(client: OldClient) -> None:
    (client.home / "fasconf.yaml").unlink()
    said = client.fas(client.deployments, "list").out
    # 0.1.6 trips over its own missing `application` before it can say so.
    assert "FaaSpot profile was not set" in said or "no attribute 'application'" in said
    named = () if client.first else ("--name",)
    assert client.fas("profiles", "create", *named, "one", "-t", "T").out == "Profile created: one\n"
    assert client.fas("profiles", "create", *named, "two").out == "Profile created: two\n"
    assert "already exists" in client.fas("profiles", "create", *named, "two").out
    assert "updated" in client.fas("profiles", "create", *named, "two", "-u", "me", "--update-if-exist").out
    assert "updated" in client.fas("profiles", "update", "two", "-u", "me", "-p", "secret").out
    assert {row[0] for row in client.fas("profiles", "list", "-a").rows()} == {"*one*", "two"}
    assert "'username': 'me'" in client.fas("profiles", "get", "two").out
    assert client.fas("profiles", "use", "two").out == "Current profile: two\n"
    assert "two" in client.fas("profiles", "current").out
    assert "two" in client.fas("profiles", "delete", "two").out
    assert client.fas("--version").out + client.fas("--version").err


@last_client  # only it knows applications
def test_an_application_of_the_profile_is_part_of_the_address(client: OldClient, hello: str) -> None:
    client.write_profile(application="shop")
    assert hello in [row[0] for row in client.fas("functions", "list").rows()]
    assert hello in client.fas("functions", "get", hello).out
    assert client.fas("functions", "run", hello, "-p", "name=shop", "--wait").result == "Hello shop"
    assert client.fas("nodes", "list").rows()


def test_a_wrong_token_is_a_401_and_a_user_with_a_token_as_password_is_let_in(client: OldClient) -> None:
    client.write_profile(token="wrong")
    said = client.fas(client.deployments, "list").out
    assert "401 (UNAUTHORIZED): A valid token is required" in said
    client.write_profile(token="", username="admin", password=client.platform.token)
    assert client.fas(client.deployments, "list").err.startswith("\n")
    client.write_profile(username="admin", password="wrong")
    assert client.fas(client.deployments, "list").err.startswith("\n")


def test_verbose_shows_the_connection(client: OldClient) -> None:
    assert "Starting new HTTP connection" in client.fas("executions", "list", "-vvv").err
    assert "Starting new HTTP connection" not in client.fas("executions", "list", "-v").err
