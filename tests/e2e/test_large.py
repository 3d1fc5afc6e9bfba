"""A result that is too long for a record: whole for whoever asks, and in nobody's memory but the function's."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os

from faaspot import Faaspot
from tests.e2e.test_first_run import removed
from tests.platforms import Platform

MEGABYTE = 1024 * 1024
LARGE = "def main(args, context):\n    return 'x' * args['n']\n"


def stored(platform: Platform) -> int:
    """Bytes of all that the platform keeps beside blobs, also what earlier tests have left."""
    found = 0
    for folder, folders, names in os.walk(platform.data):  # lives through what vanishes meanwhile
        folders[:] = [name for name in folders if name != "blobs"]
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                found += os.lstat(os.path.join(folder, name)).st_size
    return found


def test_a_large_result_comes_whole_however_it_is_asked_for(platform: Platform) -> None:
    removed(platform, "large")
    platform.deploy("large", LARGE, memory=256)
    size, before = 24 * MEGABYTE, stored(platform)
    digest = hashlib.sha256(json.dumps("x" * size).encode()).hexdigest()
    answer = platform.run("large", {"n": size})
    assert (answer.status, len(answer.text)) == (200, size + 2)

    with Faaspot(host=platform.url, token=platform.token) as client:
        run = client.deployments.run("large", {"n": size})
        assert client.executions.result(run) == "x" * size
        record = client.executions.get(run)
        assert (record.status, record.output, record.output_size) == ("Success", None, size + 2)
        assert [len(one) for one in client.deployments.map("large", [{"n": size}, {"n": 5}])] == [size, 5]

    (blob,) = (platform.data / "blobs" / digest[:2]).glob(digest)
    assert blob.stat().st_size == size + 2
    assert stored(platform) - before < size, "neither the database nor Redis' file holds it"
