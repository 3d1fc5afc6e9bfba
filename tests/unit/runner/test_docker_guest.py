"""A container that the user runs: what it must not be allowed, and that no program in it keeps us."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest

from faaspot_runner.docker import guest as module
from faaspot_runner.docker.engine import Engine
from faaspot_runner.docker.guest import Guest
from faaspot_runner.errors import EngineError


class FakeApi:
    """An engine's answers about one container in which a program never has a pid. `asked`: how often for it."""

    def __init__(self, *mounts: dict[str, Any]) -> None:
        self.told = {"Id": "0123456789abcdef", "State": {"Running": True}, "Mounts": mounts}
        self.asked = 0

    def ask(self, what: str, call: Callable[[Any], Any]) -> Any:
        return call(self)

    def inspect_container(self, name: str) -> dict[str, Any]:
        return self.told

    def exec_create(self, container: str, command: list[str], user: str) -> dict[str, str]:
        return {"Id": "execution"}

    def exec_start(self, execution: str, detach: bool) -> None:
        pass

    def exec_inspect(self, execution: str) -> dict[str, Any]:
        self.asked += 1
        return {"Pid": 0, "Running": False, "ExitCode": None}


def bind(target: str, source: str, writable: bool) -> dict[str, Any]:
    return {"Type": "bind", "Source": source, "Destination": target, "RW": writable}


SHARED = bind("/run/faaspot", "/srv/shared", False)
ENVIRONMENTS = bind("/run/environments", "/srv/data/environments", False)


def looked_at(api: FakeApi) -> Guest:
    return Guest(cast(Engine, api), "mine", "65533:65533")


# ---------------------------------------------------------------- what is shared with it


def test_a_container_that_can_only_read_what_is_ours_is_one_for_us() -> None:
    found = looked_at(FakeApi(SHARED, ENVIRONMENTS, bind("/data", "/srv/other", True)))
    assert (str(found.shared), found.environments) == ("/srv/shared", True)
    assert not looked_at(FakeApi(SHARED)).environments


@pytest.mark.parametrize(
    ("mounts", "where"),
    [
        ((bind("/run/faaspot", "/srv/shared", True),), "/run/faaspot"),
        ((SHARED, bind("/run/environments", "/srv/data/environments", True)), "/run/environments"),
        ((SHARED, bind("/data", "/srv/shared", True)), "/data"),
        ((SHARED, bind("/data", "/srv", True)), "/data"),
        ((SHARED, ENVIRONMENTS, bind("/data", "/srv/data/environments/0123", True)), "/data"),
        (({"Type": "tmpfs", "Source": "", "Destination": "/run/faaspot"},), "/run/faaspot"),
    ],
)
def test_a_container_that_can_write_what_is_ours_is_refused(mounts: tuple[dict[str, Any], ...], where: str) -> None:
    """Root in it would replace our socket by a link, and the spot's root would open to all what that leads to."""
    with pytest.raises(EngineError, match=f"The container mine can write what is ours in it, at {where}\\. Start it"):
        looked_at(FakeApi(*mounts))


# ---------------------------------------------------------------- its programs


def test_a_launcher_that_has_no_pid_yet_is_waited_for_without_a_storm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "EXECUTED_SECONDS", 0.2)
    api = FakeApi(SHARED)
    looked_at(api).execute(("python3",))
    assert 2 <= api.asked <= 6
