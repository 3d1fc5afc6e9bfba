"""Runtimes as people define and use them, over a database and the queue in memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from faaspot_api.domain import runtimes as domain
from faaspot_api.domain.model import Runtime
from faaspot_api.errors import ApiError, Forbidden, NotFound, Unavailable
from faaspot_runner.contract.runtimes import RuntimeDefinition, RuntimeState
from tests.control_plane import ADMIN, ANN, BOB, EVE, Plane, a_spot, control_plane


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[Plane]:
    with control_plane(tmp_path) as plane:
        yield plane


def define(plane: Plane, name: str = "strict", kind: str = "sandbox", **more: Any) -> Runtime:
    return plane.services.runtimes.create(ADMIN, RuntimeDefinition(name=name, type=kind, **more))


def tell(plane: Plane, name: str, status: Any, error: str | None = None) -> None:
    """What the spot says of a runtime once it has followed what is wanted of it."""
    assert plane.queue.wanted is not None
    (asked,) = [each.asked for each in plane.queue.wanted.wanted if each.definition.name == name]
    state = RuntimeState(status=status, error=error, asked=asked)
    plane.queue.heartbeat(a_spot(runtimes=("sandbox", name), states={name: state}))


def wanted(plane: Plane) -> dict[str, str]:
    """What the spots were told, by name."""
    assert plane.queue.wanted is not None
    return {each.definition.name: each.wanted for each in plane.queue.wanted.wanted}


def refused(call: Any, code: str, *words: str) -> ApiError:
    with pytest.raises(ApiError) as caught:
        call()
    assert caught.value.code == code
    for word in words:
        assert word in caught.value.message
    return caught.value


def test_built_in_ones_are_always_listed_and_a_dangerous_one_only_where_it_is_offered(plane: Plane) -> None:
    plane.queue.heartbeat(a_spot(states={"sandbox": RuntimeState(status="deployed")}))
    found = {each.name: each for each in plane.services.runtimes.list(ADMIN)}
    assert list(found) == ["sandbox", "docker"]
    assert found["sandbox"].status == "deployed"
    assert (found["docker"].status, found["docker"].error) == ("undeployed", domain.NOWHERE)
    plane.queue.heartbeat(a_spot(runtimes=("sandbox", "process")))
    assert [each.name for each in plane.services.runtimes.list(ADMIN)] == ["sandbox", "docker", "process"]


def test_a_runtime_is_defined_deployed_undeployed_and_deleted(plane: Plane) -> None:
    runtimes = plane.services.runtimes
    made = define(plane, lazy=False)
    assert (made.status, made.users, made.lazy, wanted(plane)) == ("undeployed", (), False, {"strict": "down"})
    assert runtimes.deploy(ADMIN, "strict").status == "deploying"
    assert wanted(plane) == {"strict": "up"}
    tell(plane, "strict", "deployed")
    assert runtimes.get(ADMIN, "strict").status == "deployed"
    assert runtimes.undeploy(ADMIN, "strict").status == "undeploying"
    tell(plane, "strict", "undeployed")
    assert runtimes.get(ADMIN, "strict").status == "undeployed"
    runtimes.delete(ADMIN, "strict")
    assert wanted(plane) == {}
    with pytest.raises(NotFound):
        runtimes.get(ADMIN, "strict")


def test_a_failure_stands_until_it_is_tried_again(plane: Plane) -> None:
    define(plane, lazy=False)
    plane.services.runtimes.deploy(ADMIN, "strict")
    tell(plane, "strict", "failed", "no cgroup")
    failed = plane.services.runtimes.get(ADMIN, "strict")
    assert (failed.status, failed.error) == ("failed", "127.0.0.1: no cgroup")
    assert plane.services.runtimes.deploy(ADMIN, "strict").status == "deploying"


def test_a_definition_that_cannot_be_is_refused_and_nothing_is_kept(plane: Plane) -> None:
    for _ in range(2):
        refused(lambda: define(plane, kind="moon"), "invalid", "type")
        refused(lambda: define(plane, kind="process", wraps="docker"), "invalid", "wraps", "cannot wrap")
        refused(lambda: define(plane, wraps="process"), "invalid", "wraps", "only on one of type docker")
    assert plane.queue.wanted is None


def test_a_name_that_is_taken_or_built_in_is_refused(plane: Plane) -> None:
    define(plane)
    refused(lambda: define(plane), "exists")
    refused(lambda: define(plane, "docker", "sandbox"), "exists", "built in")
    for call in (plane.services.runtimes.delete, plane.services.runtimes.undeploy):
        refused(lambda call=call: call(ADMIN, "sandbox"), "busy", "built in")
        with pytest.raises(NotFound):
            call(ADMIN, "nobody")


def test_only_an_admin_changes_them_and_all_may_look(plane: Plane) -> None:
    define(plane)
    for who in (ANN, EVE):
        assert [each.name for each in plane.services.runtimes.list(who)] == ["sandbox", "docker", "strict"]
        for call in (
            lambda who=who: plane.services.runtimes.create(who, RuntimeDefinition(name="x", type="sandbox")),
            lambda who=who: plane.services.runtimes.delete(who, "strict"),
            lambda who=who: plane.services.runtimes.deploy(who, "strict"),
            lambda who=who: plane.services.runtimes.undeploy(who, "strict"),
        ):
            with pytest.raises(Forbidden):
                call()


# ---------------------------------------------------------------- use


def test_a_deployment_names_a_runtime_that_is_in_service(plane: Plane) -> None:
    define(plane, lazy=False)
    refused(lambda: plane.create(runtime="strict"), "runtime_unavailable", "fas runtimes deploy strict")
    plane.services.runtimes.deploy(ADMIN, "strict")
    plane.create(runtime="strict")
    assert plane.services.deployments.get(ADMIN, "hello").version.settings.runtime == "strict"
    plane.run()
    assert plane.take().sandbox.runtime == "strict"


def test_a_lazy_one_can_be_named_as_soon_as_it_is_defined(plane: Plane) -> None:
    define(plane)
    plane.create(runtime="strict")


def test_a_runtime_that_no_online_spot_can_offer_is_refused_with_its_types(plane: Plane) -> None:
    define(plane, "box", "docker", config={"image": "debian"})
    refused(lambda: plane.create(runtime="box"), "runtime_unavailable", "docker")
    refused(lambda: plane.services.runtimes.deploy(ADMIN, "box"), "runtime_unavailable", "docker")
    refused(lambda: plane.create(runtime="nobody"), "runtime_unavailable", "nobody")
    plane.queue.heartbeat(a_spot(runtimes=("docker",)))
    plane.create(runtime="box")


def test_users_are_those_that_the_token_sees(plane: Plane) -> None:
    define(plane)
    plane.create("one", who=ANN, runtime="strict")
    plane.create("two", who=BOB, runtime="strict")
    assert plane.services.runtimes.get(ADMIN, "strict").users == ("deployments/one", "deployments/two")
    assert plane.services.runtimes.get(ANN, "strict").users == ("deployments/one",)
    assert plane.services.runtimes.get(EVE, "strict").users == ()


def test_one_in_use_cannot_be_deleted(plane: Plane) -> None:
    define(plane)
    plane.create("one", runtime="strict")
    plane.update("one", runtime="sandbox", requirements="requests")
    refused(lambda: plane.services.runtimes.delete(ADMIN, "strict"), "busy", "deployments/one")
    plane.build()
    plane.services.runtimes.delete(ADMIN, "strict")
    refused(lambda: plane.services.deployments.rollback(ADMIN, "one", 1), "runtime_unavailable", "strict")


def test_one_that_a_version_still_to_be_built_needs_cannot_be_deleted(plane: Plane) -> None:
    define(plane)
    plane.create("one")
    plane.update("one", runtime="strict", requirements="requests")
    plane.update("one", runtime="sandbox", requirements="")
    refused(lambda: plane.services.runtimes.delete(ADMIN, "strict"), "busy", "deployments/one")


def test_one_that_another_stands_on_can_be_neither_deleted_nor_undeployed(plane: Plane) -> None:
    runtimes = plane.services.runtimes
    plane.queue.heartbeat(a_spot(runtimes=("sandbox", "docker")))
    define(plane, "inner", "docker")
    define(plane, "outer", "sandbox", wraps="inner")
    assert runtimes.get(ADMIN, "inner").users == ("runtimes/outer",)
    refused(lambda: runtimes.undeploy(ADMIN, "inner"), "busy", "runtimes/outer")
    runtimes.undeploy(ADMIN, "outer")
    runtimes.undeploy(ADMIN, "inner")
    refused(lambda: runtimes.delete(ADMIN, "inner"), "busy", "runtimes/outer")
    runtimes.delete(ADMIN, "outer")
    runtimes.delete(ADMIN, "inner")


def test_a_stack_needs_one_spot_that_offers_all_of_it(plane: Plane) -> None:
    define(plane, "inner", "docker")
    define(plane, "outer", "sandbox", wraps="inner")
    plane.queue.heartbeat(a_spot("127.0.0.2", runtimes=("docker",)))
    refused(lambda: plane.create(runtime="outer"), "runtime_unavailable", "docker, sandbox")
    plane.queue.heartbeat(a_spot("127.0.0.3", runtimes=("sandbox", "docker")))
    plane.create(runtime="outer")


# ---------------------------------------------------------------- what is lost


def test_a_queue_that_came_back_empty_is_told_again(plane: Plane) -> None:
    define(plane)
    plane.services.runtimes.deploy(ADMIN, "strict")
    plane.queue.lose_everything()
    plane.passes(1.0)
    assert wanted(plane) == {"strict": "up"}


def test_while_the_spots_cannot_be_asked_nothing_is_half_done(plane: Plane) -> None:
    define(plane)
    plane.queue.away = "gone"
    for call in (lambda: define(plane, "other"), lambda: plane.services.runtimes.undeploy(ADMIN, "strict")):
        with pytest.raises(Unavailable):
            call()
    plane.queue.away = None
    assert wanted(plane) == {"strict": "known"}
    define(plane, "other")


def test_a_built_in_one_is_at_hand_when_it_shall_be_deployed(plane: Plane) -> None:
    refused(lambda: plane.services.runtimes.deploy(ADMIN, "docker"), "runtime_unavailable")
    plane.queue.heartbeat(a_spot(states={"sandbox": RuntimeState(status="deployed")}))
    assert plane.services.runtimes.deploy(ADMIN, "sandbox").status == "deployed"
    assert plane.queue.wanted is None


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"memory": "5"}, "config.memory: must be from 64 to 16777216, or 0"),
        ({"runs": "0"}, "config.runs: must be from 1 to 4096"),
        ({"memory": 512}, "config.memory: must be a whole number of MB, as text"),
        ({"cpus": "5000"}, "config.cpus: must be from 0 to 4096"),
    ],
)
def test_numbers_have_bounds_that_no_spot_passes(plane: Plane, said: dict[str, Any], words: str) -> None:
    refused(lambda: define(plane, kind="docker", config=said), "invalid", words)


def test_an_external_one_takes_no_limit_that_nobody_would_keep(plane: Plane) -> None:
    said = {"container": "web", "runs": "4", "memory": "512", "oci_runtime": "runsc"}
    error = refused(lambda: define(plane, kind="docker", config=said, external=True), "invalid")
    assert sorted(each.field for each in error.errors) == ["config.memory", "config.oci_runtime"]


def test_nothing_is_told_while_nobody_has_defined_one(plane: Plane) -> None:
    plane.passes(1.0)
    assert plane.queue.wanted is None
