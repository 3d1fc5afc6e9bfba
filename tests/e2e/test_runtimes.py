"""Runtimes on a whole platform: defined, deployed, used, undeployed, deleted, and what is refused meanwhile."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.platforms import Platform, eventually

CODE = "def main(args, context):\n    return 'in ' + args['n']\n"


def status(platform: Platform, name: str) -> str:
    return str(platform.call("GET", f"runtimes/{name}").json["status"])


def refusal(platform: Platform, method: str, path: str, body: object = None) -> tuple[int, str, str]:
    answer = platform.call(method, path, body)
    return answer.status, answer.json["error_code"], answer.json["message"]


def test_a_second_sandbox_runtime_lives_its_whole_life(platform: Platform) -> None:
    platform.fas("runtimes", "create", "strict", "--type", "sandbox", "--no-lazy")
    before = json.loads(platform.fas("runtimes", "get", "strict", "--json").stdout)
    assert (before["status"], before["users"], before["lazy"]) == ("undeployed", [], False)
    code, word, message = refusal(platform, "PUT", "deployments/", {"name": "s", "code": CODE, "runtime": "strict"})
    assert (code, word) == (400, "runtime_unavailable")
    assert "fas runtimes deploy strict" in message

    assert platform.fas("runtimes", "deploy", "strict", "--wait").stdout == "deployed\n"
    platform.deploy("s", CODE, runtime="strict")
    answer = platform.run("s", {"n": "strict"})
    assert answer.json == "in strict"
    assert platform.call("GET", "runtimes/strict").json["users"] == ["deployments/s"]
    assert any("strict" in spot["runtimes"] for spot in platform.call("GET", "spots/").json)
    code, word, message = refusal(platform, "DELETE", "runtimes/strict")
    assert (code, word) == (409, "busy")
    assert "deployments/s" in message

    assert platform.fas("runtimes", "undeploy", "strict", "--wait").stdout == "undeployed\n"
    failed = platform.run("s", {"n": "nowhere"})
    assert (failed.status, failed.json["error_code"]) == (503, "no_spot")
    assert "fas runtimes deploy strict" in failed.json["message"]

    platform.fas("runtimes", "deploy", "strict", "-w")
    assert platform.run("s", {"n": "again"}).json == "in again"
    platform.undeploy("s")
    platform.fas("runtimes", "delete", "strict")
    assert platform.call("GET", "runtimes/strict").status == 404
    eventually(lambda: not any("strict" in spot["runtimes"] for spot in platform.call("GET", "spots/").json), 10)


def test_a_lazy_runtime_comes_up_at_its_first_use(platform: Platform) -> None:
    assert platform.call("PUT", "runtimes/", {"name": "later", "type": "sandbox"}).status == 200
    assert status(platform, "later") == "undeployed"
    platform.deploy("l", CODE, runtime="later")
    assert platform.run("l", {"n": "time"}).json == "in time"
    eventually(lambda: status(platform, "later") == "deployed", 10)
    platform.undeploy("l")
    assert platform.call("DELETE", "runtimes/later").status == 200


def test_runtimes_are_still_there_after_a_restart(platform: Platform) -> None:
    platform.call("PUT", "runtimes/", {"name": "kept", "type": "sandbox", "lazy": False})
    platform.fas("runtimes", "deploy", "kept", "--wait")
    platform.deploy("k", CODE, runtime="kept")
    platform.restart()
    assert platform.run("k", {"n": "after"}).json == "in after"
    platform.undeploy("k")
    eventually(lambda: status(platform, "kept") == "deployed", 10)
    assert platform.call("DELETE", "runtimes/kept").status == 200


@pytest.mark.parametrize("again", range(2))
def test_what_cannot_be_is_refused_every_time_and_nothing_is_made(platform: Platform, again: int) -> None:
    before = platform.call("GET", "runtimes/").json
    for said, field in (
        ({"name": "../x", "type": "sandbox"}, "name"),
        ({"name": "r", "type": "moon"}, "type"),
        ({"name": "r", "type": "sandbox", "config": {"image": "x"}}, "config.image"),
        ({"name": "r", "type": "docker", "config": {"image": "-rf"}}, "config.image"),
        ({"name": "r", "type": "docker", "external": True}, "config.container"),
        ({"name": "r", "type": "sandbox", "external": True}, "external"),
        ({"name": "r", "type": "process", "wraps": "sandbox"}, "wraps"),
        ({"name": "r", "type": "sandbox", "wraps": 5}, "wraps"),
    ):
        answer = platform.call("PUT", "runtimes/", said)
        assert answer.status == 400, (said, answer)
        assert field in [error["field"] for error in answer.json["errors"]], (said, answer)
    assert refusal(platform, "PUT", "runtimes/", {"name": "sandbox", "type": "sandbox"})[:2] == (409, "exists")
    assert refusal(platform, "DELETE", "runtimes/sandbox")[:2] == (409, "busy")
    assert refusal(platform, "POST", "runtimes/nothing/deploy")[:2] == (404, "not_found")
    assert platform.call("GET", "runtimes/").json == before


def test_others_may_list_and_use_but_not_change(platform: Platform) -> None:
    token = platform.call("PUT", "tokens/", {"name": "dora", "role": "deployer"}).json["token"]
    try:
        found = platform.call("GET", "runtimes/", token=token)
        assert [each["name"] for each in found.json][:1] == ["sandbox"]
        for method, path in (("PUT", "runtimes/"), ("POST", "runtimes/x/deploy"), ("DELETE", "runtimes/x")):
            body = {"name": "x", "type": "sandbox"} if method == "PUT" else None
            assert platform.call(method, path, body, token=token).status == 403
    finally:
        platform.call("DELETE", "tokens/dora")


def test_a_stop_with_a_defined_runtime_in_use_leaves_nothing(platform: Platform) -> None:
    """Its sandboxes and its launcher go with the spot."""
    platform.call("PUT", "runtimes/", {"name": "left", "type": "sandbox"})
    platform.deploy("left", CODE, runtime="left")
    assert platform.run("left", {"n": "x"}).json == "in x"
    pids = platform.processes("faaspot_runner")
    assert pids
    assert platform.stop() == 0
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]
    platform.start()
    platform.undeploy("left")
    assert platform.call("DELETE", "runtimes/left").status == 200
