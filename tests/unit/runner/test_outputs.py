"""Large outputs become blobs, or the run's failure says why not."""

from __future__ import annotations

import hashlib
from pathlib import Path
from tempfile import TemporaryFile

import pytest

from faaspot_runner import outputs
from faaspot_runner.blobs import Blobs
from faaspot_runner.contract import MAX_RESULT_BYTES, LargeValue, RunEnded, RunRequest, SandboxSpec, dump, load
from faaspot_runner.contract.large import MAX_LARGE_BYTES, most_bytes
from faaspot_runner.sandbox.large import Large
from faaspot_runner.sandbox.outcome import Outcome

CONTENT = b'"a large one"'
DIGEST = hashlib.sha256(CONTENT).hexdigest()


def an_outcome(where: Path) -> Outcome:
    file = TemporaryFile(dir=where)  # noqa: SIM115 (closed by what is tested)
    file.write(CONTENT)
    return Outcome(status="Success", large=Large(file=file, digest=DIGEST, size=len(CONTENT)))


def test_a_result_may_be_as_large_as_its_process_within_bounds() -> None:
    sizes = [most_bytes(memory) for memory in (1, 64, 100_000)]
    assert sizes == [MAX_RESULT_BYTES, 64 * 1024 * 1024, MAX_LARGE_BYTES]


def test_it_is_kept_and_told_by_digest(tmp_path: Path) -> None:
    outcome = an_outcome(tmp_path)
    blobs = Blobs(tmp_path / "blobs")
    kept = outputs.kept(outcome, blobs)
    assert outputs.told(kept.large) == LargeValue(digest=DIGEST, size=len(CONTENT))
    assert blobs.read(DIGEST) == CONTENT
    assert outcome.large is not None
    assert outcome.large.file.closed


def test_one_that_cannot_be_kept_is_a_failure_that_says_so(tmp_path: Path) -> None:
    (tmp_path / "blobs").write_text("no directory")
    kept = outputs.kept(an_outcome(tmp_path), Blobs(tmp_path / "blobs"))
    assert (kept.status, kept.reason, kept.large) == ("Failure", "limit", None)
    assert kept.error is not None
    assert "could not be kept" in kept.error.message


ENDED = RunEnded(execution_id="x", attempt=1, token="t", spot="s", at=1.0, status="Success")


def test_it_goes_over_the_seam() -> None:
    large = LargeValue(digest=DIGEST, size=5)
    told = load(dump(RunEnded(execution_id="x", attempt=1, token="t", spot="s", at=1.0, status="Success", large=large)))
    assert isinstance(told, RunEnded)
    assert told.large == large
    assert load(dump(ENDED)) == ENDED


@pytest.mark.parametrize(
    "large",
    [
        '{"digest":"../../../etc/passwd","size":1}',
        '{"digest":"' + "A" * 64 + '","size":1}',
        '{"digest":"' + "a" * 64 + '","size":-1}',
        '{"digest":"' + "a" * 64 + '","size":"1"}',
        '{"digest":"' + "a" * 64 + '"}',
        '{"digest":7,"size":1}',
        "[]",
    ],
)
def test_what_names_no_blob_is_no_report(large: str) -> None:
    with pytest.raises(ValueError, match=r"malformed|large value"):
        load(dump(ENDED).replace('"large":null', f'"large":{large}'))


def test_large_args_go_over_the_seam_and_nothing_else_as_such() -> None:
    spec = SandboxSpec(version_id="v", deployment="d", version=1, runtime="sandbox", python="3.11", code="0" * 64)
    value = LargeValue(digest=DIGEST, size=5)
    request = RunRequest(execution_id="x", attempt=1, token="t", sandbox=spec, large=value)
    assert load(dump(request)) == request
    with pytest.raises(ValueError, match="large value"):
        load(dump(request).replace(DIGEST, "../../etc/passwd"))
