"""Functions in containers, on a whole platform: packages in images, and an engine that comes and goes."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import docker
import pytest

from tests import docker_engine
from tests.e2e.test_egress import PROBE, REFUSED, offers_internet
from tests.platforms import ORDINARY_UID, Platform, eventually, platform
from tests.unit.runner.engine_relay import EngineRelay, relaying

pytestmark = [pytest.mark.root, pytest.mark.slow]

HELLO = "def main(args, context):\n    return 'hello ' + args.get('name', 'world')\n"
IDNA = "import idna\ndef main(args, context):\n    return [idna.encode('ä.example').decode(), idna.__file__]\n"


NO_BLANKS = {"FAASPOT_SPOT_BLANKS": "0"}
"""Containers are counted here: none may come by itself. See tests/unit/runner/test_docker_blanks.py for those."""


@pytest.fixture(scope="module")
def relay() -> Iterator[EngineRelay]:
    with relaying(EngineRelay) as relay:
        yield relay


@pytest.fixture(scope="module")
def running(relay: EngineRelay) -> Iterator[Platform]:
    environ = {"FAASPOT_SPOT_DOCKER_IMAGE": docker_engine.IMAGE, "FAASPOT_SPOT_DOCKER_HOST": relay.url, **NO_BLANKS}
    with platform("root", environ=environ) as running:
        yield running
        data = running.data
    assert docker_engine.objects(docker_engine.platform_of(data)) == []


@pytest.fixture
def api() -> Iterator[docker.APIClient]:
    client = docker.APIClient(timeout=30)
    yield client
    client.close()


def kinds(running: Platform) -> list[str]:
    """What of the platform stands in the engine: "container" and "image", each as often as it is there."""
    return [each.split()[0] for each in docker_engine.objects(docker_engine.platform_of(running.data))]


def spot(running: Platform) -> dict[str, Any]:
    (found,) = running.call("GET", "spots/").json
    return dict(found)


def test_a_function_runs_in_a_container_and_a_warm_run_starts_none(running: Platform) -> None:
    running.deploy("hello", HELLO, runtime="docker")
    assert running.run("hello").json == "hello world"
    assert kinds(running) == ["container"]
    for number in range(5):
        assert running.run("hello", {"name": str(number)}).json == f"hello {number}"
    assert kinds(running) == ["container"]
    running.undeploy("hello")
    eventually(lambda: kinds(running) == [], 10, "the container goes with its deployment")


def test_twenty_first_runs_at_once_start_one_container(running: Platform, api: docker.APIClient) -> None:
    running.deploy("first", HELLO, runtime="docker")
    assert running.run("first").json == "hello world", "the base image was looked at, in a container of its own"
    running.deploy("cold", HELLO, runtime="docker")
    before = time.time()
    with ThreadPoolExecutor(20) as threads:
        answers = list(threads.map(lambda number: running.run("cold", {"name": str(number)}), range(20)))
    assert [answer.json for answer in answers] == [f"hello {number}" for number in range(20)]
    wanted = {"event": "start", "label": f"faaspot.platform={docker_engine.platform_of(running.data)}"}
    events = api.events(since=f"{before:.9f}", until=f"{time.time():.9f}", filters=wanted, decode=True)
    assert len(list(events)) == 1
    for name in ("first", "cold"):
        running.undeploy(name)
    eventually(lambda: kinds(running) == [], 15)


def test_a_function_in_a_container_is_held_to_its_allow_list(running: Platform) -> None:
    wanted = {"runtime": "docker", "egress": ["api.example.com:443", "192.0.2.1:443"]}
    if not offers_internet(running):
        answer = running.call("PUT", "deployments/", {"name": "held", "code": PROBE, **wanted})
        assert (answer.status, answer.json["error_code"]) == (400, "network_unavailable")
        return
    running.deploy("held", PROBE, **wanted)
    places = [["8.8.8.8", 53], ["169.254.169.254", 80], ["192.0.2.1", 443], ["127.0.0.1", running.port]]
    found = running.run("held", {"names": ["other.example.com"], "places": places}).json
    assert found.pop("resolver") == "nameserver 127.0.0.1"
    assert found.pop("other.example.com") == "gaierror"
    assert all(word in REFUSED for word in found.values()), found
    running.undeploy("held")


def test_deployments_share_the_image_of_their_packages_and_the_last_takes_it_along(running: Platform) -> None:
    built = running.deploy("first", IDNA, runtime="docker", requirements="idna==3.7")
    assert "Building the image faaspot-environment:" in running.logs(built)
    assert running.run("first").json == ["xn--4ca.example", "/env/lib/python3.11/site-packages/idna/__init__.py"]
    again = running.deploy("second", IDNA, runtime="docker", requirements="idna==3.7")
    assert "was already there, reused" in running.logs(again)
    assert kinds(running).count("image") == 1
    running.undeploy("first")
    assert running.run("second").json[0] == "xn--4ca.example"
    running.undeploy("second")
    eventually(lambda: kinds(running) == [], 15, "the image goes with the last deployment")


def test_a_version_is_built_anew_for_another_runtime(running: Platform) -> None:
    running.deploy("moved", IDNA, requirements="idna==3.7")
    assert running.run("moved").json[0] == "xn--4ca.example"
    changed = running.call("PATCH", "deployments/moved", {"runtime": "docker"}).json["uuid"]
    assert running.ended(changed)["status"] == "Success"
    assert "Building the image" in running.logs(changed)
    assert running.run("moved").json[0] == "xn--4ca.example"
    assert "container" in kinds(running)
    running.undeploy("moved")
    eventually(lambda: kinds(running) == [], 15)


def test_a_runtime_of_ones_own_image_and_a_sandbox_on_it_work_through_the_command(running: Platform) -> None:
    image = f"image={docker_engine.IMAGE}"
    running.fas(
        "runtimes", "create", "mine", "--type", "docker", "--config", image, "-c", "pids=512", "-c", "pull=never"
    )
    running.fas("runtimes", "create", "walled", "--type", "sandbox", "--wraps", "mine")
    running.fas("runtimes", "create", "far", "--type", "docker", "-c", "image=faaspot-test-nowhere", "-c", "pull=never")
    for name in ("mine", "walled"):
        running.deploy(f"in-{name}", IDNA, runtime=name, requirements="idna==3.7")
        found = running.run(f"in-{name}").json
        assert found == ["xn--4ca.example", "/env/lib/python3.11/site-packages/idna/__init__.py"]
        assert running.call("GET", f"runtimes/{name}").json["status"] == "deployed"
    assert kinds(running) == ["container", "container", "image"], "one for the version, one for all that are walled"
    refused = running.call(
        "PUT", "deployments/", {"name": "x", "code": IDNA, "requirements": "idna==3.7", "runtime": "far"}
    )
    assert "does not have the image faaspot-test-nowhere" in running.ended(refused.json)["error"]["message"]

    busy = running.call("DELETE", "runtimes/mine")
    assert (busy.status, "runtimes/walled" in busy.json["message"]) == (409, True)
    for name in ("x", "in-walled", "in-mine"):
        running.undeploy(name)
    for name in ("walled", "mine", "far"):
        running.fas("runtimes", "delete", name)
    eventually(lambda: kinds(running) == [], 15, "what the runtimes made goes with them")


def test_a_container_that_is_killed_under_a_run_leaves_one_end_and_the_next_run_works(
    running: Platform, api: docker.APIClient
) -> None:
    code = "import time\ndef main(args, context):\n    time.sleep(args.get('seconds', 0))\n    return 'slept'\n"
    running.deploy("killed", code, runtime="docker")
    assert running.run("killed").json == "slept"
    execution = running.start_run("killed", {"seconds": 3})
    eventually(lambda: running.record(execution)["status"] == "Started")
    label = f"faaspot.platform={docker_engine.platform_of(running.data)}"
    (container,) = api.containers(filters={"label": label})
    api.remove_container(container["Id"], force=True)
    assert running.run("killed").json == "slept"
    record = running.ended(execution, 60)
    assert (record["status"], record["reason"]) in (("Success", None), ("Failure", "worker_lost"))
    running.undeploy("killed")


def test_an_engine_that_goes_away_is_told_and_comes_back_by_itself(running: Platform, relay: EngineRelay) -> None:
    running.deploy("warm", HELLO, runtime="docker")
    running.deploy("cold", HELLO, runtime="docker")
    assert running.run("warm").json == "hello world"
    relay.close()
    eventually(lambda: "docker" not in spot(running)["runtimes"], 15, "the spot offers the runtime no more")
    assert any(problem.startswith("runtime docker: No Docker engine answers") for problem in spot(running)["problems"])
    assert running.run("warm").json == "hello world", "what is warm needs no engine"
    refused = running.call("PUT", "deployments/", {"name": "late", "code": HELLO, "runtime": "docker"})
    assert (refused.status, refused.json["error_code"]) == (400, "runtime_unavailable")
    lost = running.run("cold")
    assert lost.json["error_code"] == "no_spot"
    assert "No Docker engine answers" in lost.json["message"]
    relay.open()
    eventually(lambda: "docker" in spot(running)["runtimes"], 15, "the spot offers the runtime again")
    assert running.run("cold").json == "hello world"
    for name in ("warm", "cold"):
        running.undeploy(name)
    eventually(lambda: kinds(running) == [], 15)


def owners(pids: set[int]) -> set[int]:
    """Of those that have not ended meanwhile, as a run's processes do."""
    found = set()
    for pid in pids:
        with contextlib.suppress(FileNotFoundError):
            found.add(Path(f"/proc/{pid}").stat().st_uid)
    return found


def test_an_ordinary_user_with_access_to_the_engine_has_containers_of_its_own_uid(relay: EngineRelay) -> None:
    """The engine runs them as that user, never as root, so that a spot of theirs can look after its runs."""
    relay.path.parent.chmod(0o755)
    relay.path.chmod(0o666)
    code = "import os\ndef main(args, context):\n    held = bytearray(args.get('mb', 0) << 20)\n    return len(held)\n"
    environ = {"FAASPOT_SPOT_DOCKER_IMAGE": docker_engine.IMAGE, "FAASPOT_SPOT_DOCKER_HOST": relay.url, **NO_BLANKS}
    with platform("user", environ=environ) as running:
        running.deploy("mine", code, runtime="docker", memory=64)
        assert running.run("mine").json == 0
        inside = docker_engine.processes(docker_engine.platform_of(running.data))
        assert len(inside) >= 3, "a launcher, an init, a zygote"
        assert owners(inside) == {ORDINARY_UID}
        assert running.run("mine", {"mb": 500}).status != 200
        assert running.run("mine").json == 0
        data = running.data
    assert docker_engine.objects(docker_engine.platform_of(data)) == []


def test_a_base_image_that_cannot_be_had_fails_the_build_with_its_name() -> None:
    docker_engine.needed()
    environ = {"FAASPOT_SPOT_DOCKER_IMAGE": "127.0.0.1:9/faaspot-test-nowhere"}
    with platform("root", environ=environ) as running:
        answer = running.call(
            "PUT", "deployments/", {"name": "x", "code": IDNA, "requirements": "idna==3.7", "runtime": "docker"}
        )
        record = running.ended(answer.json, 60)
        assert (record["status"], record["reason"]) == ("Failure", "build_failed")
        assert "The base image 127.0.0.1:9/faaspot-test-nowhere is not there" in record["error"]["message"]
        running.deploy("plain", HELLO, runtime="docker")
        lost = running.run("plain")
        assert "faaspot-test-nowhere is not there" in lost.json["message"]


def test_a_spot_without_an_engine_offers_no_docker_and_says_why(tmp_path: Path) -> None:
    environ = {"FAASPOT_SPOT_DOCKER_HOST": f"unix://{tmp_path}/nowhere.sock"}
    started = time.monotonic()
    with platform("root", environ=environ) as running:
        assert time.monotonic() - started < 30
        assert spot(running)["runtimes"] == ["sandbox"]
        (problem,) = spot(running)["problems"]
        assert problem.startswith(f"runtime docker: No Docker engine answers at unix://{tmp_path}/nowhere.sock")
