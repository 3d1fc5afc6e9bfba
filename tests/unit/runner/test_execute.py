"""One execution over the zygote wire, with zygotes that do as the test says: refuse, die, fall silent, answer."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import IO, Any, cast
from uuid import uuid4

import pytest

from faaspot_runner.agent import wire
from faaspot_runner.archives import Archives
from faaspot_runner.blobs import Blobs, Contexts
from faaspot_runner.contract import BuildOutcome, BuildRequest, Error, LargeValue, RunEnded, RunRequest, SandboxSpec
from faaspot_runner.environments.archive import Packed
from faaspot_runner.environments.build import Environments
from faaspot_runner.environments.errors import BuildError
from faaspot_runner.errors import SandboxError
from faaspot_runner.execute import Executor, Means
from faaspot_runner.lease import Lease, RedisClock, Request
from faaspot_runner.report import LiveLog
from faaspot_runner.runtimes import channels
from faaspot_runner.runtimes.channels import Channels
from faaspot_runner.runtimes.spot_socket import Offered, Prepared, SpotClient
from faaspot_runner.sandbox.spec import Interpreter
from tests.unit.runner.fake_zygote import Behave, Zygote, answers, dies, dies_running, hangs, refuses, says

pytestmark = pytest.mark.timeout(30)

SPEC = SandboxSpec(version_id="v1", deployment="d", version=1, runtime="process", python="3.11", code="0" * 64)


class FakeSpot:
    """The spot's side of the socket: gives out the zygotes in turn, or the failure that the test put there."""

    def __init__(self) -> None:
        self.zygotes: list[Zygote] = []
        self.asked: list[str | None] = []
        self.suspects: list[tuple[str, bool]] = []
        self.fate = SandboxError("the sandbox is gone")
        self.offers: list[Behave | SandboxError | None] = []
        self.target: Interpreter | None = Interpreter(
            executable=Path("/usr/bin/python3.11"), prefix=Path("/usr"), version="3.11", full_version="3.11.2"
        )
        self.kept: list[tuple[str, str, str | None]] = []
        self.refusal: SandboxError | None = None

    def acquire(self, spec: SandboxSpec, seconds: float, avoid: str | None = None) -> Future[Offered]:
        self.asked.append(avoid)
        future: Future[Offered] = Future()
        offer = self.offers.pop(0)
        if isinstance(offer, SandboxError):
            future.set_exception(offer)
        elif offer is not None:
            zygote = Zygote(offer)
            self.zygotes.append(zygote)
            sandbox = f"s{len(self.zygotes)}"
            future.set_result(
                Offered(
                    channel=zygote.theirs,
                    sandbox=sandbox,
                    cold=True,
                    counted=True,
                    start_ms=1.0,
                    import_ms=2.0,
                    log="imported\n",
                )
            )
        return future

    def suspect(self, sandbox: str, *, stuck: bool) -> Future[Offered]:
        self.suspects.append((sandbox, stuck))
        future: Future[Offered] = Future()
        future.set_exception(self.fate)
        return future

    def interpreter(self, runtime: str, python: str) -> Future[Prepared]:
        future: Future[Prepared] = Future()
        future.set_result(Prepared(interpreter=self.target, log="looked at it"))
        return future

    def keep(self, runtime: str, python: str, environment: str | None) -> Future[Prepared]:
        self.kept.append((runtime, python, environment))
        future: Future[Prepared] = Future()
        if self.refusal is not None:
            future.set_exception(self.refusal)
        else:
            future.set_result(Prepared(interpreter=None, log="made of it\nwhat is needed"))
        return future


class FakeEnvironments:
    """Environments that build as the test says."""

    def __init__(self) -> None:
        self.make: Callable[[Callable[[str], None]], BuildOutcome] = lambda _: BuildOutcome(lock=None, environment=None)
        self.ensured: list[str] = []
        self.targets: list[Interpreter | None] = []
        self.failure: BuildError | None = None
        self.root = Path("/nonexistent")

    def path(self, name: str) -> Path:
        return self.root / name

    def ensure(
        self,
        lock_text: str,
        python: str,
        deadline: float,
        target: Interpreter | None,
        packed: Packed | None,
    ) -> Path:
        self.ensured.append(lock_text)
        self.targets.append(target)
        if self.failure:
            raise self.failure
        return self.root

    def build(
        self,
        request: BuildRequest,
        log: Callable[[str], None],
        cancelled: Callable[[], bool],
        deadline: float,
        target: Interpreter | None,
    ) -> BuildOutcome:
        self.targets.append(target)
        return self.make(log)


class Desk:
    """An executor, and everything around it that the test plays."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.spot = FakeSpot()
        self.environments = FakeEnvironments()
        self.live = LiveLog("e", lambda _: None)
        self.lease: Lease | None = None
        blobs = Blobs(data)
        client = cast(SpotClient, self.spot)
        self.channels = Channels(client)
        self.executor = Executor(
            Means(
                spot="127.0.0.1",
                clock=RedisClock(),
                client=client,
                channels=self.channels,
                slots=None,
                blobs=blobs,
                contexts=Contexts(blobs, data / "key"),
                environments=cast(Environments, self.environments),
                archives=Archives(blobs, cast(Environments, self.environments)),
                cold_start_timeout=10.0,
            )
        )

    def blob(self, data: bytes) -> str:
        digest = hashlib.sha256(data).hexdigest()
        (self.data / digest[:2]).mkdir(exist_ok=True)
        (self.data / digest[:2] / digest).write_bytes(data)
        return digest

    def run(self, *offers: Behave | SandboxError | None, stop: str | None = None, **spec: Any) -> RunEnded | None:
        """One run whose zygotes do as they are told; `stop`: the lease's word, said before it begins."""
        sandbox = SandboxSpec(**{**{name: getattr(SPEC, name) for name in SPEC.__slots__}, **spec})
        expires = time.time() - 1 if stop == "expired" else None
        request = RunRequest(execution_id=str(uuid4()), attempt=1, token="t", sandbox=sandbox, expires=expires)
        return self.do(request, *offers, stop=stop)

    def build(self) -> RunEnded | None:
        return self.do(
            BuildRequest(
                execution_id=str(uuid4()), attempt=1, token="t", deployment="hello", version=2, version_id="v",
                requirements="", python="3.11", runtime="docker",
            )
        )  # fmt: skip

    def do(self, request: Request, *offers: Behave | SandboxError | None, stop: str | None = None) -> RunEnded | None:
        self.spot.offers = list(offers)
        self.lease = Lease(request, "member")
        if stop in ("cancelled", "lost", "stopped"):
            self.lease.end(stop)  # type: ignore[arg-type]
        ended = self.executor.run(request, self.lease, self.live)
        if ended is not None:
            ended.settle()
        return ended.event if ended else None

    def close(self) -> None:
        self.channels.close()
        for zygote in self.spot.zygotes:
            zygote.close()


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    desk = Desk(tmp_path)
    yield desk
    desk.close()


# ---------------------------------------------------------------- ends


def test_a_success_tells_output_log_and_timings_and_keeps_the_channel(desk: Desk) -> None:
    first = desk.run(answers)
    assert first is not None
    assert (first.status, first.output, first.log) == ("Success", '"done"', "imported\n")
    assert (first.timings.cold, first.timings.import_ms) == (True, 2.0)
    second = desk.run()
    assert second is not None
    assert (second.status, second.log, second.timings.cold) == ("Success", "", False)
    assert desk.spot.asked == [None]


def test_a_run_that_begins_before_its_fork_is_told_has_its_steps_in_order(desk: Desk) -> None:
    def late(zygote: Zygote, name: str, fds: list[int]) -> None:
        now = time.monotonic()
        os.write(fds[0], wire.frame(b'{"ok":true,"began":%.6f,"finished":%.6f,"output":"done"}' % (now, now)))
        zygote.fork(name)
        wire.close(fds)

    request = RunRequest(execution_id=str(uuid4()), attempt=1, token="t", sandbox=SPEC, accepted=time.time())
    ended = desk.do(request, late)
    assert ended is not None
    marks = ended.timings.marks
    assert marks.taken is not None
    assert marks.forked is not None
    assert marks.forked == marks.started
    assert marks.taken <= marks.forked


def test_a_process_is_dead_when_its_end_was_settled(desk: Desk) -> None:
    desk.run(answers)
    run, _waits_for_the_next = desk.spot.zygotes[0].runs
    assert run.wait(5) == -9


def test_a_process_that_speaks_before_it_is_asked_serves_nothing(desk: Desk) -> None:
    """The fake answers at once: what waits for the next run has written its result before there is a request."""
    desk.run(answers)
    second = desk.run(answers)
    assert second is not None
    assert second.status == "Success"
    _, hasty, _, _ = desk.spot.zygotes[0].runs
    assert hasty.wait(5) == -9


def test_a_process_that_nothing_comes_for_is_ended(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channels, "RESERVED_SECONDS", 0.0)
    desk.run(answers)
    desk.channels.tidy()
    _, waits = desk.spot.zygotes[0].runs
    assert waits.wait(5) == -9
    third = desk.run(answers)
    assert third is not None
    assert third.status == "Success"


@pytest.mark.parametrize(("word", "status"), [("cancelled", "Cancelled"), ("lost", None), ("stopped", "Failure")])
def test_a_run_that_may_not_go_on_never_starts(desk: Desk, word: str, status: str | None) -> None:
    ended = desk.run(stop=word)
    assert (ended.status if ended else None) == status
    assert ended is None or ended.reason == {"cancelled": "cancelled", "stopped": "interrupted"}[word]
    assert desk.spot.asked == []


@pytest.mark.parametrize(("word", "status"), [("cancelled", "Cancelled"), ("lost", None), ("stopped", "Failure")])
def test_a_word_of_the_lease_stops_a_run_in_flight(desk: Desk, word: str, status: str | None) -> None:
    timer = threading.Timer(0.3, lambda: desk.lease and desk.lease.end(word))  # type: ignore[arg-type]
    timer.start()
    ended = desk.run(hangs)
    assert (ended.status if ended else None) == status
    assert ended is None or ended.log == "imported\nsaid\n"
    assert desk.spot.zygotes[0].runs[0].wait(5) == -9


def test_a_cancel_ends_the_wait_for_a_sandbox(desk: Desk) -> None:
    timer = threading.Timer(0.3, lambda: desk.lease and desk.lease.end("cancelled"))
    timer.start()
    ended = desk.run(None)
    assert ended is not None
    assert ended.status == "Cancelled"


def test_a_request_past_its_age_is_not_started(desk: Desk) -> None:
    ended = desk.run(stop="expired")
    assert ended is not None
    assert (ended.status, ended.reason) == ("Failure", "no_spot")
    assert desk.spot.asked == []


def test_an_import_that_fails_is_the_users_end(desk: Desk) -> None:
    error = Error(type="KeyError", message="'x'", traceback="Traceback")
    ended = desk.run(SandboxError("'x'", reason="error", error=error, log="printed\n"))
    assert ended is not None
    assert (ended.status, ended.reason, ended.error, ended.log) == ("Failure", "error", error, "printed\n")


# ---------------------------------------------------------------- the platform's failures


def test_a_refused_fork_is_tried_once_more_with_another_sandbox(desk: Desk) -> None:
    ended = desk.run(refuses, answers)
    assert ended is not None
    assert ended.status == "Success"
    assert desk.spot.asked == [None, "s1"]
    assert desk.spot.suspects == []


def test_a_zygote_that_dies_before_it_forked_is_tried_once_more(desk: Desk) -> None:
    ended = desk.run(dies, answers)
    assert ended is not None
    assert ended.status == "Success"
    assert desk.spot.suspects == [("s1", False)]


def test_two_failures_before_the_start_have_no_end(desk: Desk) -> None:
    assert desk.run(refuses, dies) is None
    assert desk.spot.asked == [None, "s1"]


def test_a_zygote_that_dies_under_a_run_leaves_it_to_another_attempt(desk: Desk) -> None:
    assert desk.run(dies_running) is None
    assert desk.spot.asked == [None]


@pytest.mark.parametrize("behave", [dies, dies_running])
def test_a_sandbox_that_was_killed_for_its_memory_is_the_functions_own_end(desk: Desk, behave: Behave) -> None:
    error = Error(type="OutOfMemory", message="what the function's import started took more memory than 320 MB")
    desk.spot.fate = SandboxError(error.message, reason="oom", error=error)
    ended = desk.run(behave, answers)
    assert ended is not None
    assert (ended.status, ended.reason, ended.error) == ("Failure", "oom", error)
    assert desk.spot.asked == [None]


def test_a_zygote_that_breaks_the_protocol_is_the_functions_own_end_at_once(desk: Desk) -> None:
    """Another attempt would meet the same code."""
    ended = desk.run(says({"op": "exited", "status": 2**100}))
    assert ended is not None
    assert (ended.status, ended.reason) == ("Failure", "error")
    assert ended.error is not None
    assert ended.error.type == "SandboxBroken"
    assert desk.spot.asked == [None]
    assert desk.spot.suspects == [("s1", False)]
    assert desk.spot.zygotes[0].runs[0].wait(5) == -9


def test_what_a_zygote_says_is_one_bounded_line_of_the_log(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    forged = "no\nERROR spot: the platform is on fire" + "!" * 5000
    lies = says({"op": "refused", "errno": 1, "message": forged}, forked=False)
    assert desk.run(lies, lies) is None
    assert len(caplog.messages) == 2
    assert not [text for text in caplog.messages if "\n" in text or len(text) > 600]


def test_a_defect_of_the_platform_is_a_failure_like_any_other(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    def make(log: Callable[[str], None]) -> BuildOutcome:
        raise KeyError("nobody thought of it")

    desk.environments.make = make
    assert desk.build() is None
    assert "another attempt decides" in caplog.text
    assert "KeyError: 'nobody thought of it'" in caplog.text


def test_a_sandbox_that_the_platform_could_not_start_has_no_end(desk: Desk) -> None:
    assert desk.run(SandboxError("no uid left")) is None


def test_an_idle_channel_whose_zygote_died_meanwhile_is_not_used(desk: Desk) -> None:
    desk.run(answers)
    desk.spot.zygotes[0].ours.shutdown(socket.SHUT_RDWR)
    ended = desk.run(answers)
    assert ended is not None
    assert ended.timings.cold
    assert desk.spot.asked == [None, None]


def test_a_context_that_cannot_be_opened_has_no_end_and_says_nothing_of_it(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    (desk.data / "key").write_bytes(b"k" * 32)
    assert desk.run(context=desk.blob(b"FS1 secret-text")) is None
    assert "cannot be opened on this spot" in caplog.text
    assert "secret" not in caplog.text


def test_a_damaged_blob_is_refused(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    (desk.data / "key").write_bytes(b"k" * 32)
    digest = desk.blob(b"whole")
    (desk.data / digest[:2] / digest).write_bytes(b"broken")
    assert desk.run(context=digest) is None
    assert "damaged" in caplog.text


# ---------------------------------------------------------------- environments and builds


def test_a_missing_environment_is_installed_from_its_lock(desk: Desk, tmp_path: Path) -> None:
    desk.environments.root = tmp_path
    lock = desk.blob(b"the lock")
    for _ in range(2):
        ended = desk.run(answers, environment="env", lock=lock)
        assert ended is not None
        assert ended.status == "Success"
        (tmp_path / "env").mkdir(exist_ok=True)
    assert desk.environments.ensured == ["the lock"]
    assert desk.environments.targets == [desk.spot.target]


def test_an_environment_that_cannot_be_installed_here_is_no_fault_of_the_run(desk: Desk) -> None:
    desk.environments.failure = BuildError("the index is away")
    assert desk.run(environment="env", lock=desk.blob(b"the lock")) is None


def test_a_build_ends_with_its_outcome_and_its_log(desk: Desk) -> None:
    outcome = BuildOutcome(lock="# lock", environment="e" * 32, packages=("jinja2==3.1.6",))

    def make(log: Callable[[str], None]) -> BuildOutcome:
        log("resolving")
        log("installing")
        return outcome

    desk.environments.make = make
    ended = desk.build()
    assert ended is not None
    assert (ended.status, ended.build) == ("Success", outcome)
    assert ended.log == "looked at it\nresolving\ninstalling\nmade of it\nwhat is needed\n"
    assert desk.spot.kept == [("docker", "3.11", "e" * 32)]
    assert desk.environments.targets == [desk.spot.target]
    assert json.loads(ended.output or "") == "Version 2 of hello is ready."


@pytest.mark.parametrize("reason", ["build_failed", "timeout"])
def test_a_failed_build_tells_why(desk: Desk, reason: Any) -> None:
    def make(log: Callable[[str], None]) -> BuildOutcome:
        raise BuildError("nothing like this exists", reason=reason)

    desk.environments.make = make
    ended = desk.build()
    assert ended is not None
    assert (ended.status, ended.reason) == ("Failure", reason)
    assert ended.error == Error(type="BuildError", message="nothing like this exists")


def test_a_build_of_which_the_runtime_can_make_nothing_has_failed(desk: Desk) -> None:
    desk.spot.refusal = SandboxError("the base image is not there", reason="build_failed")
    ended = desk.build()
    assert ended is not None
    assert (ended.status, ended.reason) == ("Failure", "build_failed")
    assert ended.error == Error(type="BuildError", message="the base image is not there")
    assert ended.log == "looked at it\n"


def test_a_build_log_is_cut_with_a_mark(desk: Desk) -> None:
    def make(log: Callable[[str], None]) -> BuildOutcome:
        for _ in range(1100):
            log("x" * 1023)
        return BuildOutcome(lock=None, environment=None)

    desk.environments.make = make
    ended = desk.build()
    assert ended is not None
    assert ended.logs_truncated
    assert ended.log.endswith("\n[faaspot: log cut here, 77863 more bytes were dropped]\n")


# ---------------------------------------------------------------- large args


def large(desk: Desk, digest: str) -> RunRequest:
    value = LargeValue(digest=digest, size=8)
    return RunRequest(execution_id=str(uuid4()), attempt=1, token="t", sandbox=SPEC, large=value)


def test_large_args_are_opened_here_and_closed(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[IO[bytes]] = []
    real = Blobs.opened

    def open_(blobs: Blobs, digest: str, size: int) -> IO[bytes]:
        opened.append(real(blobs, digest, size))
        return opened[-1]

    monkeypatch.setattr(Blobs, "opened", open_)
    ended = desk.do(large(desk, desk.blob(b'{"n": 1}')), answers)
    assert ended is not None
    assert ended.status == "Success"
    assert [file.closed for file in opened] == [True]


def test_large_args_that_are_away_or_damaged_are_no_end_of_the_run(desk: Desk) -> None:
    damaged = desk.blob(b'{"n": 1}')
    (desk.data / damaged[:2] / damaged).write_bytes(b'{"n": 2}')
    for digest in ("a" * 64, damaged):
        assert desk.do(large(desk, digest), answers) is None
    assert desk.spot.asked == []
