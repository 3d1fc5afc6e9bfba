"""`fas runtimes`."""

from __future__ import annotations

from fas.command import FAILED, USAGE
from tests.unit.cli.conftest import Fas


def test_a_runtime_is_defined_deployed_undeployed_and_deleted(fas: Fas) -> None:
    assert "fas runtimes deploy strict" in fas("runtimes", "create", "strict", "--type", "sandbox", "--no-lazy").stderr
    assert fas("runtimes", "deploy", "strict").stdout == "deploying\n"
    assert fas("runtimes", "deploy", "strict", "--wait").stdout == "deployed\n"
    lines = fas("runtimes", "list").stdout.splitlines()
    assert lines[0].split() == ["NAME", "TYPE", "STATUS", "WRAPS", "USERS", "ERROR"]
    assert [line.split()[:3] for line in lines[1:]] == [
        ["sandbox", "sandbox", "deployed"],
        ["strict", "sandbox", "deployed"],
    ]
    assert fas("runtimes", "undeploy", "strict", "-w").stdout == "undeployed\n"
    assert "status   | undeployed" in fas("runtimes", "get", "strict").stdout
    assert "deleted" in fas("runtimes", "delete", "strict").stderr
    assert "`fas runtimes list`" in fas("runtimes", "get", "strict", code=FAILED).stderr


def test_json_is_the_record_and_nothing_else(fas: Fas) -> None:
    made = fas.json("runtimes", "create", "big", "--type", "docker", "-c", "image=debian:12", "-c", "cpus=2")
    assert made["config"] == {"image": "debian:12", "cpus": "2"}
    assert made["lazy"] is True
    assert fas.json("runtimes", "deploy", "big", "-w")["status"] == "deployed"
    assert [each["name"] for each in fas.json("runtimes", "list")] == ["sandbox", "big"]
    assert fas.json("runtimes", "delete", "big") == {"name": "big"}


def test_what_cannot_be_is_told_with_its_field(fas: Fas) -> None:
    assert "image" in fas("runtimes", "create", "x", "--type", "sandbox", "-c", "image=a", code=FAILED).stderr
    assert "key=value" in fas("runtimes", "create", "x", "--type", "docker", "-c", "image", code=USAGE).stderr


def test_a_deploy_that_fails_ends_with_its_error(fas: Fas) -> None:
    fas("runtimes", "create", "bad", "--type", "docker", "-c", "image=broken")
    assert "no such image" in fas("runtimes", "deploy", "bad", "--wait", code=FAILED).stderr
