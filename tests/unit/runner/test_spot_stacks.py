"""Runtimes on a whole spot: told through Redis, used by runs, stacked on each other, and gone with the spot."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from faaspot_runner.contract import CONTROL, RUNTIMES, Release, dump
from faaspot_runner.contract.runtimes import RuntimeDefinition, Runtimes, RuntimeState, RuntimeWanted, Wanted
from faaspot_runner.sandbox import features
from faaspot_runner.sandbox.firewall import LINK_PREFIX
from tests.platforms import Traces
from tests.unit.runner.site import Site, alive, cmdline, descendants, eventually
from tests.unit.runner.stacked_spot import PREFIX, STUCK

MISSING = features.missing_for_sandbox()
pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING), reason=f"this kernel lacks {MISSING[:1]}"),
]
PROGRAM = (str(Path(__file__).with_name("stacked_spot.py")),)


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site(Path(tempfile.mkdtemp(prefix="fs-")), "sandbox", PROGRAM)
    yield site
    site.close()
    shutil.rmtree(site.directory)


class Api:
    """Says what it wants, as the control plane does."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.revision = 0
        self.wishes: dict[str, RuntimeWanted] = {}

    def want(self, name: str, wanted: Wanted, kind: str = "box", *, tell: bool = True, **more: Any) -> None:
        self.revision += 1
        definition = RuntimeDefinition(**{"name": name, "type": kind, "lazy": False, **more})
        self.wishes[name] = RuntimeWanted(definition=definition, wanted=wanted, asked=self.revision)
        self.say(tell=tell)

    def say(self, *, tell: bool = True) -> None:
        text = dump(Runtimes(revision=self.revision, wanted=tuple(self.wishes.values())))
        self.site.client.set(RUNTIMES, text)
        if tell:
            self.site.client.publish(CONTROL, text)

    def state(self, name: str) -> RuntimeState | None:
        info = self.site.info()
        return info.states.get(name) if info else None

    def becomes(self, name: str, status: str) -> None:
        eventually(lambda: (state := self.state(name)) and (state.status, state.asked) == (status, self._asked(name)))

    def _asked(self, name: str) -> int:
        return self.wishes[name].asked


@pytest.fixture
def api(site: Site) -> Api:
    site.start()
    return Api(site)


def boxes() -> set[str]:
    return {path.name for path in Path(tempfile.gettempdir()).glob(PREFIX + "*")}


def stack(api: Api) -> None:
    """A sandbox that stands on a box."""
    api.want("inner", "known", lazy=True)
    api.want("outer", "up", "walled", wraps="inner")
    api.becomes("outer", "deployed")


def test_a_run_in_a_stack_has_its_inner_runtime_up(api: Api) -> None:
    stack(api)
    assert len(boxes()) == 2, "the built-in one and the inner one"
    ended = api.site.run(runtime="outer")
    assert (ended.status, ended.output) == ("Success", '"Hello nobody"'), ended
    assert ended.usage.max_memory_mb is not None
    api.want("outer", "down", "walled", wraps="inner")
    api.becomes("outer", "undeployed")
    api.want("inner", "down", lazy=True)
    api.becomes("inner", "undeployed")
    assert len(boxes()) == 1


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "in the middle of a run"])
def test_a_stop_leaves_nothing_of_a_stack_and_of_sandboxes(site: Site, busy: bool) -> None:
    before = Traces.now()
    site.start("--grace", "1")
    api = Api(site)
    stack(api)
    assert os.geteuid() != 0 or any(own_names(site)[0] in trace for trace in Traces.since(before)), "it is looked for"
    assert site.run(runtime="outer").status == "Success"
    assert site.run().status == "Success"
    if busy:
        request = site.request(site.spec("import time\ndef main(a, c):\n    time.sleep(600)\n", runtime="outer"))
        site.enqueue(request)
        eventually(lambda: site.started(request))
    family = descendants(site.pid)
    assert any("sleep" in cmdline(pid) for pid in family)
    assert site.stop() == 0, site.log()
    eventually(lambda: not [pid for pid in family if alive(pid)], 2)
    # What else lives on this machine (an engine's containers, another platform) is not ours to judge.
    assert [trace for trace in Traces.since(before) if any(name in trace for name in own_names(site))] == []
    assert [path.name for path in (site.data / "spots" / site.ip).iterdir()] == ["spot.json"]
    assert boxes() == set()


def own_names(site: Site) -> tuple[str, ...]:
    """What stands in the names of all that this spot makes on the host: cgroups, its link, mounts, files."""
    name = f"{site.ip}-{hashlib.sha256(str(site.data).encode()).hexdigest()[:10]}"
    return name, LINK_PREFIX + hashlib.sha256(name.encode()).hexdigest()[:8], site.directory.name, PREFIX


def test_a_stop_in_the_middle_of_a_deploy_leaves_nothing(api: Api) -> None:
    wait = api.site.directory / "go"
    api.want("slow", "up", config={"wait": str(wait)})
    eventually(lambda: len(boxes()) == 2)
    assert api.site.process is not None
    api.site.process.send_signal(signal.SIGTERM)
    eventually(lambda: (info := api.site.info()) and info.status == "draining")
    wait.touch()
    assert api.site.process.wait(20) == 0
    assert boxes() == set()


def test_a_runtime_that_fails_says_why_and_leaves_nothing_and_its_runs_end_with_that(api: Api) -> None:
    before = boxes()
    api.want("leaky", "up", config={"fail": "yes"})
    api.becomes("leaky", "failed")
    state = api.state("leaky")
    assert state is not None
    assert state.error == "the box has a hole"
    assert boxes() == before
    ended = api.site.run(runtime="leaky")
    assert (ended.status, ended.reason) == ("Failure", "no_spot")
    assert ended.error is not None
    assert "the box has a hole" in ended.error.message


def test_what_was_said_while_the_spot_was_away_is_followed_when_it_is_back(site: Site) -> None:
    site.server.start()
    site.client = site.server.client()
    api = Api(site)
    api.want("strict", "up", "sandbox")
    site.start()
    api.becomes("strict", "deployed")
    assert site.run(runtime="strict").status == "Success"


def test_a_run_in_a_runtime_that_the_spot_has_not_heard_of_looks_it_up(api: Api) -> None:
    api.want("new", "known", "sandbox", lazy=True, tell=False)
    assert api.site.run(runtime="new").status == "Success"
    assert api.site.run(runtime="nobody").reason == "no_spot"


def test_a_server_that_came_back_empty_changes_nothing_and_is_told_again(api: Api) -> None:
    stack(api)
    api.site.server.kill(forget=True)
    api.site.server.start()
    api.site.online("sync=1,background=1,builds=1")
    assert api.site.run(runtime="outer").status == "Success"
    api.say()
    api.want("outer", "down", "walled", wraps="inner")
    api.becomes("outer", "undeployed")


def test_an_undeploy_lets_what_runs_end(api: Api) -> None:
    api.want("strict", "up", "sandbox")
    api.becomes("strict", "deployed")
    code = (
        "import time\ndef main(args, context):\n    print('begun', flush=True)\n    time.sleep(2)\n    return 'whole'\n"
    )
    request = api.site.request(api.site.spec(code, runtime="strict"))
    api.site.enqueue(request)
    eventually(lambda: api.site.started(request))
    eventually(lambda: (info := api.site.info()) and info.sandboxes)
    api.want("strict", "down", "sandbox")
    assert api.site.wait(request).output == '"whole"'
    api.becomes("strict", "undeployed")
    assert api.site.run(runtime="strict").reason == "no_spot"


def test_a_runtime_that_does_not_let_go_of_an_environment_holds_up_nothing_else(site: Site) -> None:
    site.start("--sandbox-idle", "6")  # some heartbeats long
    site.client.publish(CONTROL, dump(Release(environments=(STUCK,))))
    eventually(lambda: "it does not let go" in site.log())
    assert site.run().status == "Success"
    eventually(lambda: (info := site.info()) and info.sandboxes)
    eventually(lambda: (info := site.info()) and not info.sandboxes)


@pytest.mark.skipif(os.geteuid() != 0, reason="an ordinary user has no cgroups here")
def test_runs_of_a_defined_sandbox_are_in_cgroups_of_their_own(api: Api) -> None:
    """Not only those of the built-in runtime: an out of memory ends the run and nothing else."""
    api.want("strict", "up", "sandbox")
    code = "def main(args, context):\n    return len(bytearray(300 * 2**20))\n"
    ended = api.site.run(code, runtime="strict", limits={"memory": 64})
    assert (ended.status, ended.reason) == ("Failure", "oom")
