"""The allow-list in a deployment's settings: what can be said, and what becomes of it."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from faaspot_api.errors import ApiError
from faaspot_runner.contract import Limits, sandbox_spec
from faaspot_runner.contract.egress import EgressRule, egress_rule
from faaspot_runner.contract.runtimes import RuntimeDefinition
from tests.control_plane import ADMIN, Plane, a_spot, control_plane

ABLE: dict[str, Any] = {"networks": ("none", "internet"), "egress": True}


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[Plane]:
    with control_plane(tmp_path) as plane:
        plane.queue.heartbeat(a_spot(**ABLE))
        yield plane


def refused(call: Any) -> ApiError:
    with pytest.raises(ApiError) as caught:
        call()
    return caught.value


# ---------------------------------------------------------------- items


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("api.example.com:443", EgressRule(name="api.example.com", first=443, last=443)),
        ("API.Example.COM.:8000-8080", EgressRule(name="api.example.com", first=8000, last=8080)),
        ("xn--bcher-kva.example:1-65535", EgressRule(name="xn--bcher-kva.example", first=1, last=65535)),
        ("_srv.example.com:5", EgressRule(name="_srv.example.com", first=5, last=5)),
        ("8.8.4.4:53", EgressRule(network=ip_network("8.8.4.4/32"), first=53, last=53)),
        ("203.0.113.0/24:443", EgressRule(network=ip_network("203.0.113.0/24"), first=443, last=443)),
        ("[2001:db8::1]:443", EgressRule(network=ip_network("2001:db8::1/128"), first=443, last=443)),
        ("[2001:db8::/32]:443", EgressRule(network=ip_network("2001:db8::/32"), first=443, last=443)),
    ],
)
def test_an_item_is_a_place_and_its_ports(text: str, rule: EgressRule) -> None:
    assert egress_rule(text) == rule


@pytest.mark.parametrize(
    "text",
    [
        "", ":", ":443", "api.example.com", "api.example.com:", "api.example.com:0", "api.example.com:65536",
        "api.example.com:9-8", "api.example.com:-5", "api.example.com:https", "api.example.com:４４３", "*:443",
        "*.example.com:443", "localhost:80", "db:5432", "a..b:1", "-a.example.com:1", "a-.example.com:1",
        "bücher.example:443",
        "a b.example.com:1", "a.example.com\n:1", "http://a.example.com:1", "user@a.example.com:1", "a.example.com/x:1",
        "1.2.3:80", "1.2.3.4.5:80", "256.1.1.1:80", "127.1:80", "0x7f.1:80", "a.0x7f:80", "10.0.0.1/8:80",
        "8.8.8.8/33:80", "2001:db8::1:443", "[8.8.4.4]:443", "[::ffff:10.0.0.1]:443",
        "[::ffff:0:0/97]:443", "[fe80::1%eth0]:443",
        "x" * 64 + ".example.com:1", ".".join(["abcdefgh"] * 30) + ":1",
    ],
)  # fmt: skip
def test_what_is_none_says_why(text: str) -> None:
    with pytest.raises(ValueError, match=r"must|needs|holds|is|names|written"):
        egress_rule(text)


@given(st.text(max_size=40))
def test_any_text_is_an_item_or_a_value_error(text: str) -> None:
    try:
        rule = egress_rule(text)
    except ValueError:
        return
    assert (rule.name is None) != (rule.network is None)
    assert 1 <= rule.first <= rule.last <= 65535


# ---------------------------------------------------------------- settings


def test_a_list_is_kept_and_goes_to_the_spot_and_implies_the_internet(plane: Plane) -> None:
    plane.create(egress=("api.example.com:443", "8.8.4.4:53"))
    settings = plane.services.deployments.get(ADMIN, "hello").version.settings
    assert (settings.egress, settings.network) == (("api.example.com:443", "8.8.4.4:53"), "internet")
    plane.run()
    limits = plane.take().sandbox.limits
    assert limits.egress == ("api.example.com:443", "8.8.4.4:53")
    assert "only api.example.com:443, 8.8.4.4:53" in plane.log(
        plane.services.deployments.get(ADMIN, "hello").build or ""
    )


def test_the_list_travels_as_json_and_a_spec_without_one_is_still_read() -> None:
    data: dict[str, Any] = {
        "version_id": "v", "deployment": "d", "version": 1, "runtime": "sandbox", "python": "3.11", "code": "0",
        "limits": {"timeout": 1.0, "network": "internet", "egress": ["8.8.4.4:53"]},
    }  # fmt: skip
    assert hash(sandbox_spec(data)) is not None
    assert sandbox_spec(data).limits == Limits(timeout=1.0, network="internet", egress=("8.8.4.4:53",))
    del data["limits"]["egress"]
    assert sandbox_spec(data).limits.egress is None


def test_an_update_keeps_the_list_and_a_star_lifts_it(plane: Plane) -> None:
    plane.create(egress=("8.8.4.4:53",))
    plane.update(memory=64)
    assert plane.services.deployments.get(ADMIN, "hello").version.settings.egress == ("8.8.4.4:53",)
    plane.update(egress=("*",))
    plane.run()
    assert plane.take().sandbox.limits == Limits(memory=64, network="internet")


@pytest.mark.parametrize(
    ("items", "field"),
    [
        ((), "egress"),
        (("8.8.4.4:53", "nonsense"), "egress[1]"),
        (("8.8.4.4:53", "*"), "egress[1]"),
        (("x" * 400 + ".example.com:1",), "egress[0]"),
        (tuple(f"8.8.4.4:{port}" for port in range(1, 60)), "egress"),
    ],
)
def test_a_list_that_cannot_be_is_refused_by_its_item(plane: Plane, items: tuple[str, ...], field: str) -> None:
    error = refused(lambda: plane.create(egress=items))
    assert (error.status, error.code, [each.field for each in error.errors]) == (400, "invalid", [field])


def test_a_list_needs_the_internet(plane: Plane) -> None:
    error = refused(lambda: plane.create(egress=("8.8.4.4:53",), network="none"))
    assert [each.field for each in error.errors] == ["egress"]
    plane.create(egress=("8.8.4.4:53",))
    assert refused(lambda: plane.update(network="none")).errors[0].field == "egress"
    plane.update(network="none", egress=("*",))


@pytest.mark.parametrize(
    ("spot", "words"),
    [
        ({"networks": ("none",), "problems": ("network internet: iptables was not found",)}, "network internet"),
        ({"networks": ("none", "internet"), "problems": ("egress: no conntrack",)}, "no conntrack"),
    ],
)
def test_where_nobody_can_enforce_it_it_is_refused_with_the_reason(
    plane: Plane, spot: dict[str, Any], words: str
) -> None:
    plane.queue.heartbeat(a_spot(**spot))
    error = refused(lambda: plane.create(egress=("8.8.4.4:53",)))
    assert (error.status, error.code) == (400, "network_unavailable")
    assert words in error.message
    plane.create()


def test_a_runtime_that_isolates_nothing_is_no_way_around(plane: Plane) -> None:
    plane.queue.heartbeat(a_spot(runtimes=("sandbox", "process"), **ABLE))
    error = refused(lambda: plane.create(egress=("8.8.4.4:53",), runtime="process"))
    assert (error.code, "type process" in error.message) == ("network_unavailable", True)
    plane.create(egress=("8.8.4.4:53",))
    assert refused(lambda: plane.update(runtime="process")).code == "network_unavailable"


def test_a_container_of_ours_is_held_to_the_list_and_one_that_its_user_runs_is_not(plane: Plane) -> None:
    plane.queue.heartbeat(a_spot(runtimes=("sandbox", "docker"), **ABLE))
    create = plane.services.runtimes.create
    create(ADMIN, RuntimeDefinition(name="ours", type="docker"))
    create(ADMIN, RuntimeDefinition(name="theirs", type="docker", external=True, config={"container": "web"}))
    create(ADMIN, RuntimeDefinition(name="on-theirs", type="sandbox", wraps="theirs"))
    plane.create("held", egress=("8.8.4.4:53",), runtime="ours")
    for name in ("theirs", "on-theirs"):
        error = refused(lambda name=name: plane.create(egress=("8.8.4.4:53",), runtime=name))
        assert (error.code, "an external runtime of type docker" in error.message) == ("network_unavailable", True)


def test_a_spot_that_enforces_lists_counts_only_for_what_it_offers(plane: Plane) -> None:
    plane.queue.heartbeat(a_spot(runtimes=("process",), **ABLE))
    plane.queue.heartbeat(a_spot("127.0.0.2", runtimes=("sandbox",), networks=("none", "internet")))
    assert refused(lambda: plane.create(egress=("8.8.4.4:53",))).code == "network_unavailable"
