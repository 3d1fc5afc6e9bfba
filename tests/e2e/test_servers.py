"""A platform on servers that are not its own: PostgreSQL, and a Redis that a Sentinel watches over."""

from __future__ import annotations

import pytest

from tests import platforms
from tests.platforms import SETUPS, command_line, eventually
from tests.postgres_servers import BINARIES, MISSING, running_postgres
from tests.redis_sentinels import GUARDS, running_watched
from tests.redis_servers import PASSWORD

CODE = "def main(args, context):\n    return args\n"


@pytest.mark.skipif(BINARIES is None, reason=MISSING)
def test_runs_go_on_after_a_failover_of_redis_and_nothing_secret_is_an_argument() -> None:
    with running_postgres() as postgres, running_watched() as watched:
        environ = {
            "FAASPOT_DATABASE_URL": postgres.create("platform"),
            "FAASPOT_REDIS_URL": watched.url,
            "FAASPOT_REDIS_PASSWORD": PASSWORD,
            "FAASPOT_REDIS_SENTINEL_PASSWORD": GUARDS,
        }
        with platforms.platform(SETUPS[0], environ=environ) as platform:
            platform.deploy("echo", CODE)
            assert platform.run("echo", {"n": 1}).json == {"n": 1}
            lines = [command_line(pid) for pid in platform.processes()]
            assert not [line for line in lines if PASSWORD in line or GUARDS in line]
            waiting = [platform.start_run("echo", {"n": n}) for n in range(20)]
            watched.kill_master()
            for number, execution in enumerate(waiting):  # some wake-ups went with the master: the store knows
                assert platform.ended(execution, 90)["output"] == {"n": number}
            eventually(lambda: platform.call("GET", "/readyz", token=None).status == 200, 30, "all is ready again")
            assert platform.run("echo", {"n": 2}).json == {"n": 2}
