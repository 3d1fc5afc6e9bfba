"""A whole spot does what people want of it, takes from its own line, and leaves to others what it cannot run."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from faaspot_runner.contract import SPOT_HEARTBEAT_SECONDS, RunEnded, SpotInfo, lease_key
from faaspot_runner.contract.spots import EVERY, WISHES, Wish, own_line
from tests.unit.runner.site import Site, eventually

pytestmark = [pytest.mark.timeout(120), pytest.mark.slow]


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    site = Site(Path(tempfile.mkdtemp(prefix="fs-")), "process")
    site.start()
    yield site
    site.close()
    shutil.rmtree(site.directory)


def wish(site: Site, wanted: Wish | None, of: str = "127.0.0.1") -> None:
    if wanted is None:
        site.client.hdel(WISHES, of)
    else:
        site.client.hset(WISHES, of, wanted.text())


def told(site: Site) -> SpotInfo:
    info = site.info()
    assert info is not None
    return info


def test_it_has_as_many_workers_as_is_wanted_and_again_as_many_as_at_its_start(site: Site) -> None:
    wish(site, Wish(least=2, most=3), EVERY)
    eventually(lambda: told(site).workers == {"sync": 2, "background": 2, "builds": 1})
    assert told(site).capacity == 4 * 32
    wish(site, Wish(most=0))
    eventually(lambda: told(site).workers == {"builds": 1})
    wish(site, None)
    wish(site, None, EVERY)
    eventually(lambda: told(site).workers == {"sync": 1, "background": 1, "builds": 1})


def test_while_it_drains_it_takes_nothing_and_afterwards_it_does(site: Site) -> None:
    wish(site, Wish(draining=True))
    eventually(lambda: told(site).status == "draining")
    request = site.request(site.spec())
    site.enqueue(request)
    until = told(site).last_seen + 2 * SPOT_HEARTBEAT_SECONDS
    eventually(lambda: told(site).last_seen > until)
    waiting = [site.client.llen(f"rq:queue:sync{more}") for more in ("", ":intermediate")]
    assert waiting == [1, 0]
    wish(site, None)
    assert site.wait(request).status == "Success"
    assert told(site).status == "online"


def test_it_takes_from_its_own_line(site: Site) -> None:
    request = site.request(site.spec())
    site.enqueue(request, own_line("sync", "127.0.0.1"))
    assert site.wait(request).status == "Success"
    assert request.sandbox.version_id in eventually(lambda: told(site).warm)


def test_what_it_cannot_run_and_another_can_gets_no_end_here(site: Site) -> None:
    request = site.request(site.spec(python="9.9"), elsewhere=True)
    site.enqueue(request)
    eventually(lambda: site.started(request))
    eventually(lambda: not site.client.exists(lease_key(request.execution_id, 1)))
    assert not any(isinstance(event, RunEnded) for event in site.events(request))


def test_told_to_leave_it_ends(site: Site) -> None:
    """The last one: there is no spot afterwards."""
    wish(site, Wish(draining=True, leaving=True))
    assert site.process is not None
    assert site.process.wait(30) == 0
