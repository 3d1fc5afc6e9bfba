"""`fas spots`, also `fas nodes`."""

from __future__ import annotations

from fas.command import FAILED, USAGE
from tests.unit.cli.conftest import Fas


def test_spots_are_listed_shown_added_and_removed(fas: Fas) -> None:
    assert fas("spots", "add", "--wait").stdout == "127.0.0.2\n"
    assert [line.split()[0] for line in fas("nodes", "list").stdout.splitlines()] == ["IP", "127.0.0.1", "127.0.0.2"]
    assert "ip " in fas("spots", "get", "127.0.0.2").stdout
    assert fas.json("spots", "get", "127.0.0.2")["status"] == "online"
    assert len(fas("spots", "remove", "-i", "127.0.0.2").stdout.strip()) == 36
    assert fas("spots", "remove", "-w").stdout == "127.0.0.1\n"
    assert fas.json("spots", "list") == []
    assert "`fas spots add`" in fas("spots", "list").stderr
    assert "`fas spots list`" in fas("spots", "get", "127.0.0.1", code=FAILED).stderr


def test_numbers_of_workers_are_compared_as_numbers(fas: Fas) -> None:
    said = fas.json("spots", "update", "--min", "2", "--max", "10")
    assert (said["min_workers"], said["max_workers"], said["applied"]) == (2, 10, True)
    assert "more than" in fas("spots", "update", "--min", "10", "--max", "2", code=USAGE).stderr
    assert "Nothing to update" in fas("spots", "update", code=USAGE).stderr
    fas("spots", "update", "--min", "x", code=USAGE)


def test_refresh_and_replace(fas: Fas) -> None:
    assert len(fas("spots", "refresh_ip").stdout.strip()) == 36
    fas("spots", "refresh-ip", "-i", "127.0.0.1", "-w")
    assert len(fas("spots", "replace", "127.0.0.1").stdout.strip()) == 36
    assert fas("spots", "replace", "127.0.0.1", "--wait").stdout == "127.0.0.1\n"


def test_what_a_spot_cannot_offer_is_told(fas: Fas, platform: object) -> None:
    from dataclasses import replace

    spots = platform.services.state.spots  # type: ignore[attr-defined]
    spots["127.0.0.1"] = replace(spots["127.0.0.1"], problems=("network internet: iptables was not found",))

    assert fas("spots", "list").stderr == "127.0.0.1: network internet: iptables was not found\n"
