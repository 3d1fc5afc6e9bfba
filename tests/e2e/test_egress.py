"""The allow-list on a whole platform: enforced where a spot can, else refused with the reason."""

from __future__ import annotations

import pytest

from tests.platforms import Platform

PROBE = """
import errno, socket

def main(args, context):
    found = {"resolver": open("/etc/resolv.conf").read().splitlines()[0]}
    for name in args["names"]:
        try:
            found[name] = socket.gethostbyname(name)
        except OSError as error:
            found[name] = type(error).__name__
    for host, port in args["places"]:
        with socket.socket() as sock:
            sock.settimeout(3)
            try:
                sock.connect((host, port))
                found[f"{host}:{port}"] = "reached"
            except OSError as error:
                found[f"{host}:{port}"] = errno.errorcode.get(error.errno, type(error).__name__)
    return found
"""
LISTED = {"egress": ["api.example.com:443", "192.0.2.1:443", "198.18.0.1:80"]}
REFUSED = ("EHOSTUNREACH", "ENETUNREACH", "EACCES", "EPERM", "ECONNREFUSED")


def offers_internet(platform: Platform) -> bool:
    return any("internet" in spot["networks"] for spot in platform.call("GET", "spots/").json)


def test_a_list_is_enforced_or_refused_with_the_reason(platform: Platform) -> None:
    if not offers_internet(platform):
        answer = platform.call("PUT", "deployments/", {"name": "held", "code": PROBE, **LISTED})
        assert (answer.status, answer.json["error_code"]) == (400, "network_unavailable")
        assert "network internet: " in answer.json["message"] or "there is none" in answer.json["message"]
        assert platform.call("GET", "deployments/held").status == 404
        return
    platform.deploy("held", PROBE, **LISTED)
    assert platform.call("GET", "deployments/held").json["settings"]["egress"] == LISTED["egress"]
    places = [
        ["8.8.8.8", 53],
        ["1.1.1.1", 443],
        ["169.254.169.254", 80],
        ["192.0.2.1", 443],
        ["127.0.0.1", platform.port],
    ]
    answer = platform.run("held", {"names": ["other.example.com", "data.api.example.com"], "places": places})
    assert answer.status == 200, answer
    found = answer.json
    assert found.pop("resolver") == "nameserver 127.0.0.1"
    assert [found.pop(name) for name in ("other.example.com", "data.api.example.com")] == ["gaierror", "gaierror"]
    assert all(word in REFUSED for word in found.values()), found
    platform.undeploy("held")


@pytest.mark.parametrize("items", [["nonsense"], ["*.example.com:443"], [], "api.example.com:443", [5], [None], None])
def test_a_list_that_cannot_be_is_a_400_that_names_it(platform: Platform, items: object) -> None:
    answer = platform.call("PUT", "deployments/", {"name": "never", "code": PROBE, "egress": items})
    assert answer.status == 400, answer
    assert any(error["field"].startswith("egress") for error in answer.json["errors"]), answer


def test_the_command_takes_a_list(platform: Platform) -> None:
    file = platform.home / "probe.py"
    file.write_text(PROBE)
    words = ("--file", str(file), "--egress", "api.example.com:443", "--egress", "[2001:db8::/32]:443", "--wait")
    done = platform.fas("deployments", "create", "listed", *words, check=False)
    assert (done.returncode == 0) == offers_internet(platform), done.stderr
    if done.returncode == 0:
        settings = platform.call("GET", "deployments/listed").json["settings"]
        assert settings["egress"] == ["api.example.com:443", "[2001:db8::/32]:443"]
        platform.fas("deployments", "update", "listed", "--egress", "*", "--wait")
        assert platform.call("GET", "deployments/listed").json["settings"]["egress"] == ["*"]
        platform.undeploy("listed")
