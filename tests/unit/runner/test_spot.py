"""A whole spot: enqueue a request, see its end; kill what can be killed, and see that it comes back."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from faaspot_api.domain.seal import seal
from faaspot_api.services import Policy
from faaspot_runner.contract import (
    CONTROL,
    ENVIRONMENTS,
    LEASE_RENEW_SECONDS,
    LEASE_SECONDS,
    BuildRequest,
    Cancel,
    Release,
    RunEnded,
    RunRequest,
    RunStarted,
    cancel_key,
    dump,
    job_id,
    lease_key,
    log_key,
)
from faaspot_runner.sandbox import features
from tests.unit.runner.site import HELLO, Site, alive, cmdline, comm, descendants, eventually

pytestmark = [pytest.mark.timeout(120), pytest.mark.slow]

MISSING = features.missing_for_sandbox()
RUNTIMES = [
    pytest.param("sandbox", marks=pytest.mark.skipif(bool(MISSING), reason=f"this kernel lacks {MISSING[:1]}")),
    "process",
]
FOREVER = "import time\ndef main(args, context):\n    print('begun', flush=True)\n    time.sleep(600)\n"
MARKED = (
    "import time\ndef main(args, context):\n    open('/proc/self/comm', 'w').write(args['mark'])\n    time.sleep(600)\n"
)


def made(runtime: str) -> Site:
    return Site(Path(tempfile.mkdtemp(prefix="fs-")), runtime)


def unmade(site: Site) -> None:
    site.close()
    shutil.rmtree(site.directory)


@pytest.fixture(scope="module", params=RUNTIMES)
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    """One spot for the tests that leave it as it was."""
    site = made(request.param)
    site.start()
    yield site
    unmade(site)


@pytest.fixture(params=RUNTIMES)
def fresh(request: pytest.FixtureRequest) -> Iterator[Site]:
    """A spot that is not started yet, for the tests that kill it."""
    site = made(request.param)
    yield site
    unmade(site)


def fed(site: Site, code: str = FOREVER) -> RunRequest:
    """A request that is on its way."""
    request = site.request(site.spec(code))
    site.enqueue(request)
    return request


# ---------------------------------------------------------------- runs


def test_a_run_ends_with_its_output_its_timings_and_its_usage(site: Site) -> None:
    spec = site.spec()
    first = site.request(spec, {"name": "user1"})
    site.enqueue(first)
    cold = site.wait(first)
    assert (cold.status, cold.reason, cold.output) == ("Success", None, '"Hello user1"')
    assert (cold.timings.cold, cold.spot) == (True, "127.0.0.1")
    assert cold.timings.import_ms is not None
    second = site.request(spec)
    site.enqueue(second)
    warm = site.wait(second)
    assert (warm.timings.cold, warm.timings.import_ms) == (False, None)
    parts = (warm.timings.queue_ms, warm.timings.start_ms, warm.timings.run_ms)
    assert all(part is not None and part >= 0 for part in parts)
    assert warm.timings.total_ms is not None
    assert warm.timings.total_ms >= sum(part or 0 for part in parts) - 1
    assert warm.usage.max_memory_mb is not None
    assert [event.kind for event in site.events(second)] == ["started", "ended"]


def test_the_context_reaches_main_and_no_other_version_can_use_it(site: Site) -> None:
    version = uuid4().hex
    sealed = seal(site.key.public_key().public_bytes_raw(), b'{"secret": "s3"}', version)
    code = "def main(args, context):\n    return context['secret']\n"
    assert site.run(code, version_id=version, context=site.blob(sealed)).output == '"s3"'
    assert site.run(code, version_id=uuid4().hex, context=site.blob(sealed), context_for=version).output == '"s3"'
    stranger = site.request(site.spec(code, context=site.blob(sealed)))
    site.enqueue(stranger)
    eventually(lambda: site.started(stranger) and site.client.get(lease_key(stranger.execution_id, 1)) is None)
    assert [event.kind for event in site.events(stranger)] == ["started"]
    assert "s3" not in site.log()


def test_an_exception_ends_as_error_with_a_traceback_of_the_users_file(site: Site) -> None:
    ended = site.run("def main(args, context):\n    raise ValueError('no')\n")
    assert (ended.status, ended.reason) == ("Failure", "error")
    assert ended.error is not None
    assert (ended.error.type, ended.error.message) == ("ValueError", "no")
    assert ended.error.traceback is not None
    assert "line 2, in main" in ended.error.traceback


def test_a_failing_import_is_an_error_of_each_run_with_its_log(site: Site) -> None:
    spec = site.spec("print('about to fail')\nraise KeyError('missing')\n")
    for _ in range(2):
        request = site.request(spec)
        site.enqueue(request)
        ended = site.wait(request)
        assert (ended.status, ended.reason) == ("Failure", "error")
        assert ended.error is not None
        assert ended.error.type == "KeyError"
        assert "about to fail" in ended.log


def test_what_the_import_printed_comes_before_the_first_cold_runs_log_only(site: Site) -> None:
    spec = site.spec("print('imported')\ndef main(args, context):\n    print('ran')\n")
    logs = []
    for _ in range(2):
        request = site.request(spec)
        site.enqueue(request)
        logs.append(site.wait(request).log)
    assert logs == ["imported\nran\n", "ran\n"]


def test_the_deadline_counts_from_the_start_of_main(site: Site) -> None:
    code = "import time\ntime.sleep(1.5)\ndef main(args, context):\n    time.sleep(args['seconds'])\n    return 1\n"
    spec = site.spec(code, limits={"timeout": 1.0})
    for seconds, wanted in ((0.0, None), (30.0, "timeout")):
        request = site.request(spec, {"seconds": seconds})
        site.enqueue(request)
        assert site.wait(request).reason == wanted


def test_a_request_past_its_age_ends_as_no_spot(site: Site) -> None:
    request = site.request(site.spec(), expires=time.time() - 1)
    site.enqueue(request)
    ended = site.wait(request)
    assert (ended.status, ended.reason) == ("Failure", "no_spot")


def test_what_this_spot_does_not_have_ends_as_no_spot(site: Site) -> None:
    assert site.run(python="3.7").reason == "no_spot"


def test_a_run_with_an_allow_list_runs_only_where_it_is_enforced(site: Site) -> None:
    info = site.info()
    assert info is not None
    ended = site.run(limits={"network": "internet", "egress": ("8.8.4.4:53",)})
    assert ended.reason == (None if info.egress and site.runtime == "sandbox" else "no_spot"), ended
    if os.geteuid() == 0 and site.runtime == "sandbox":
        assert info.egress == ("internet" in info.networks)


def test_many_runs_are_in_flight_in_one_worker(site: Site) -> None:
    spec = site.spec("import time\ndef main(args, context):\n    time.sleep(1)\n")
    requests = [site.request(spec) for _ in range(20)]
    began = time.monotonic()
    for request in requests:
        site.enqueue(request)
    assert {site.wait(request).status for request in requests} == {"Success"}
    assert time.monotonic() - began < 12


def test_ten_deliveries_of_one_wake_up_are_one_run(site: Site) -> None:
    request = site.request(site.spec())
    site.enqueue(request)
    for queue in ("sync", "background"):
        for _ in range(5):
            site.client.rpush(f"rq:queue:{queue}", job_id(request.execution_id, 1))
    assert site.wait(request).status == "Success"
    eventually(lambda: not site.client.llen("rq:queue:sync") and not site.client.llen("rq:queue:background"))
    assert [event.kind for event in site.events(request)] == ["started", "ended"]


def test_a_long_run_is_followed_live(site: Site) -> None:
    request = site.request(site.spec(FOREVER))
    site.enqueue(request)
    key = log_key(request.execution_id)
    assert b"begun" in eventually(lambda: site.client.xrange(key))[0][1][b"text"]
    cancel(site, request.execution_id)
    assert site.wait(request).log == "begun\n"


# ---------------------------------------------------------------- cancel


def cancel(site: Site, execution_id: str) -> None:
    """What the API does."""
    site.client.set(cancel_key(execution_id), "1", ex=60)
    site.client.publish(CONTROL, dump(Cancel(execution_id=execution_id)))


def test_a_running_execution_is_cancelled_within_a_second(site: Site) -> None:
    request = site.request(site.spec(FOREVER))
    site.enqueue(request)
    eventually(lambda: site.client.exists(log_key(request.execution_id)))
    began = time.monotonic()
    cancel(site, request.execution_id)
    ended = site.wait(request)
    assert time.monotonic() - began < 1
    assert (ended.status, ended.reason) == ("Cancelled", "cancelled")


def test_a_cold_start_is_cancelled_within_a_second(site: Site) -> None:
    request = site.request(site.spec("import time\ntime.sleep(5)\n" + HELLO))
    site.enqueue(request)
    eventually(lambda: site.started(request))
    began = time.monotonic()
    cancel(site, request.execution_id)
    assert site.wait(request).status == "Cancelled"
    assert time.monotonic() - began < 1


def test_a_queued_execution_that_was_cancelled_never_starts(site: Site) -> None:
    request = site.request(site.spec("open('/dev/null')\nimport os\nos._exit(3)\n"))
    cancel(site, request.execution_id)
    site.enqueue(request)
    ended = site.wait(request)
    assert ended.status == "Cancelled"
    assert not any(isinstance(event, RunStarted) for event in site.events(request))


# ---------------------------------------------------------------- builds and releases


def test_a_build_without_requirements_ends_with_its_outcome(site: Site) -> None:
    info = site.info()
    assert info is not None
    request = BuildRequest(
        execution_id=str(uuid4()), attempt=1, token="t", deployment="hello", version=3, version_id="v",
        requirements="", python=next(iter(info.pythons)), runtime=site.runtime, accepted=time.time(),
    )  # fmt: skip
    site.enqueue(request, "builds")
    ended = site.wait(request, 60)
    assert (ended.status, ended.reason) == ("Success", None), ended
    assert json.loads(ended.output or "") == "Version 3 of hello is ready."
    assert ended.build is not None


def test_a_released_version_gives_its_sandbox_back(site: Site) -> None:
    spec = site.spec()
    request = site.request(spec)
    site.enqueue(request)
    site.wait(request)
    done = time.time()
    before = eventually(lambda: (info := site.info()) and info.last_seen > done and info.sandboxes)
    site.client.publish(CONTROL, dump(Release(version_ids=(spec.version_id,))))
    eventually(lambda: (info := site.info()) and info.sandboxes < before)


def test_an_environment_whose_release_was_missed_is_found_at_the_start(fresh: Site) -> None:
    kept, missed, young = (character * 32 for character in "abc")
    for name in (kept, missed, young):
        directory = fresh.data / "environments" / name
        directory.mkdir(parents=True)
        os.utime(directory, None if name == young else (1.0, 1.0))
    fresh.server.start()
    fresh.server.client().set(ENVIRONMENTS, json.dumps([kept]))
    fresh.start()
    eventually(lambda: not (fresh.data / "environments" / missed).exists())
    assert (fresh.data / "environments" / kept).is_dir()
    assert (fresh.data / "environments" / young).is_dir(), "its build may not have been recorded yet"


# ---------------------------------------------------------------- what RQ tells


def test_rq_info_tells_queues_workers_and_counts(fresh: Site) -> None:
    fresh.start()
    fed(fresh)
    eventually(lambda: "1 executing" in rq_info(fresh))
    fed(fresh, HELLO)
    eventually(lambda: "jobs: 1 finished" in rq_info(fresh))
    text = rq_info(fresh)
    for queue in ("sync", "background", "builds"):
        assert f" {queue}. jobs:" in text
    assert "queue sync 0, 1 executing, 0 finished, 0 failed" in text
    assert "busy sync" in text
    assert "idle builds" in text


def rq_info(site: Site) -> str:
    command = [str(Path(sys.executable).with_name("rq")), "info", "--raw", "--url", site.server.url]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


# ---------------------------------------------------------------- the end of a spot


def test_a_stopping_spot_waits_for_what_runs_and_leaves_nothing(fresh: Site) -> None:
    fresh.start()
    request = fresh.request(fresh.spec("import time\ndef main(args, context):\n    time.sleep(2)\n    return 1\n"))
    fresh.enqueue(request)
    eventually(lambda: fresh.started(request))
    family = descendants(fresh.pid)
    assert fresh.stop() == 0
    assert fresh.wait(request).output == "1"
    assert fresh.client.scard("rq:workers") == 0
    assert not [pid for pid in family if alive(pid)]
    assert [path.name for path in (fresh.data / "spots" / fresh.ip).iterdir()] == ["spot.json"]


def test_what_runs_beyond_the_grace_is_stopped_and_left_to_another_attempt(fresh: Site) -> None:
    fresh.start("--grace", "1")
    request = fed(fresh)
    eventually(lambda: fresh.client.exists(log_key(request.execution_id)))
    began = time.monotonic()
    assert fresh.stop() == 0
    assert 1 <= time.monotonic() - began < 8
    started, ended = fresh.events(request)
    assert started.kind == "started"
    assert isinstance(ended, RunEnded)
    assert (ended.status, ended.reason) == ("Failure", "interrupted")


def test_a_second_signal_hastens(fresh: Site) -> None:
    fresh.start("--grace", "60")
    request = fed(fresh)
    eventually(lambda: fresh.client.exists(log_key(request.execution_id)))
    assert fresh.process is not None
    fresh.process.send_signal(signal.SIGTERM)
    eventually(lambda: (info := fresh.info()) and info.status == "draining")
    fresh.process.send_signal(signal.SIGINT)
    assert fresh.process.wait(10) == 0


def test_a_spot_dies_with_the_process_that_it_was_told(fresh: Site) -> None:
    """The supervisor's part is played by a shell that is killed."""
    fresh.server.start()
    fresh.client = fresh.server.client()
    spot = [sys.executable, "-P", "-m", "faaspot_runner", "spot", "--data-dir", str(fresh.data)]
    spot += ["--redis-url", fresh.server.url, "--workers", "sync=1"]
    spot += ("--runtime", "process", "--allow-process") if fresh.runtime == "process" else ()
    script = f"import os, subprocess; subprocess.run({spot!r} + ['--parent-pid', str(os.getpid())])"
    with fresh.log_path.open("ab") as log:
        parent = subprocess.Popen([sys.executable, "-c", script], stdout=log, stderr=log)
    try:
        eventually(lambda: fresh.info() and fresh.client.scard("rq:workers") == 1)
        family = descendants(parent.pid)
        assert len(family) >= 2
    finally:
        parent.kill()
        parent.wait()
    eventually(lambda: not [pid for pid in family if alive(pid)], 5)


# ---------------------------------------------------------------- faults


def test_a_killed_worker_takes_its_runs_with_it_and_the_next_attempt_runs(fresh: Site) -> None:
    fresh.start()
    request, running = marked(fresh)
    (worker,) = fresh.workers("sync")
    os.kill(worker, signal.SIGKILL)
    eventually(lambda: not [pid for pid in running if alive(pid)], 2)
    assert [event.kind for event in fresh.events(request)] == ["started"]
    assert fresh.client.ttl(lease_key(request.execution_id, 1)) <= 15
    eventually(lambda: fresh.workers("sync"))
    quick = fresh.request(fresh.spec())
    fresh.enqueue(quick)
    assert fresh.wait(quick).status == "Success"


def marked(site: Site) -> tuple[RunRequest, list[int]]:
    """A run that goes on, and the pid of its process as the host sees it."""
    mark = f"fs-{uuid4().hex[:10]}"
    request = site.request(site.spec(MARKED), {"mark": mark})
    site.enqueue(request)
    return request, eventually(lambda: [pid for pid in descendants(site.pid) if comm(pid) == mark])


def test_a_killed_spot_takes_all_with_it_and_starts_again(fresh: Site) -> None:
    fresh.start()
    request = fed(fresh)
    eventually(lambda: fresh.client.exists(log_key(request.execution_id)))
    family = descendants(fresh.pid)
    fresh.process.kill()
    fresh.process.wait()
    eventually(lambda: not [pid for pid in family if alive(pid)], 5)
    fresh.client.delete("rq:workers")
    fresh.start()
    assert fresh.run().status == "Success"
    again = fresh.again(request)
    fresh.enqueue(again)
    eventually(lambda: any(isinstance(event, RunStarted) and event.attempt == 2 for event in fresh.events(again)))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_zygote_that_is_dead_or_frozen_is_replaced_without_harm(fresh: Site, number: signal.Signals) -> None:
    fresh.start()
    spec = fresh.spec()
    request = fresh.request(spec)
    fresh.enqueue(request)
    assert fresh.wait(request).status == "Success"
    for pid in zygotes(fresh):
        os.kill(pid, number)
    request = fresh.request(spec)
    fresh.enqueue(request)
    assert fresh.wait(request, 40).status == "Success"


def zygotes(site: Site) -> list[int]:
    """Idle user processes: the zygote and the child that it has forked ahead."""
    return [pid for pid in descendants(site.pid) if comm(pid) == "faaspot-zygote"]


def test_a_wake_up_lost_between_dequeue_and_start_is_started_within_thirty_seconds(site: Site) -> None:
    request = site.request(site.spec())
    site.enqueue(request)
    site.wait(request)
    orphan = site.request(request.sandbox)
    site.enqueue(orphan, "orphans")
    site.client.delete("rq:queue:orphans")
    site.client.rpush("rq:queue:sync:intermediate", job_id(orphan.execution_id, 1))
    assert site.wait(orphan, 30).status == "Success"


def test_redis_killed_and_back_empty_the_spot_registers_anew_and_works(fresh: Site) -> None:
    fresh.start()
    assert fresh.run().status == "Success"
    fresh.server.kill(forget=True)
    fresh.server.start()
    fresh.online("sync=1,background=1,builds=1")
    assert fresh.run().status == "Success"
    request = fresh.request(fresh.spec(FOREVER))
    fresh.enqueue(request)
    eventually(lambda: fresh.client.exists(log_key(request.execution_id)))
    cancel(fresh, request.execution_id)
    assert fresh.wait(request).status == "Cancelled"


def test_a_frozen_redis_stops_a_run_before_its_lease_is_over_and_the_spot_recovers(fresh: Site) -> None:
    fresh.start()
    request, running = marked(fresh)
    fresh.server.signal(signal.SIGSTOP)
    began = time.monotonic()
    eventually(lambda: not [pid for pid in running if alive(pid)], 15)
    assert time.monotonic() - began < 15
    fresh.server.signal(signal.SIGCONT)
    assert fresh.run().status == "Success"
    assert not any(isinstance(event, RunEnded) for event in fresh.events(request))


def test_a_frozen_worker_is_killed_with_its_runs_before_another_attempt_may_start(fresh: Site) -> None:
    """F2: it would neither renew the lease nor kill the run that lost it."""
    fresh.start()
    request, running = marked(fresh)
    worker = next(pid for pid in descendants(fresh.pid) if ".sync." in cmdline(pid))
    os.kill(worker, signal.SIGSTOP)
    began = time.monotonic()
    eventually(lambda: not [pid for pid in running if alive(pid)], 20)
    assert time.monotonic() - began < LEASE_SECONDS + Policy().unleased - LEASE_RENEW_SECONDS
    fresh.online("sync=1,background=1,builds=1")
    assert fresh.run().status == "Success"
    assert not any(isinstance(event, RunEnded) for event in fresh.events(request))


# ---------------------------------------------------------------- what cannot start


def test_a_bad_setting_is_one_clear_line(tmp_path: Path) -> None:
    command = [sys.executable, "-P", "-m", "faaspot_runner", "spot", "--data-dir", str(tmp_path), "--workers", "a=1"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == "--workers: 'a' is not one of the queues sync, background, builds\n"
