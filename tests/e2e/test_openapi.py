"""schemathesis against the running platform's own OpenAPI document: no `internal`, no undocumented status or body."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests import platforms
from tests.platforms import SETUPS

CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"


@pytest.mark.parametrize("setup", SETUPS)
def test_the_platform_answers_as_its_document_says(setup: str) -> None:
    """On a platform of its own: it calls what it finds there, and a function that raises is a documented 500."""
    with platforms.platform(setup) as platform:
        platform.deploy("fuzzed", "def main(args, context):\n    return args\n")
        fuzz(platform)
        platform.deploy("after", "def main(args, context):\n    return args\n")
        assert platform.run("after", {"still": "there"}).json == {"still": "there"}


def fuzz(platform: platforms.Platform) -> None:
    command = [
        str(Path(sys.executable).with_name("schemathesis")), "run", platform.url + "/openapi.json",
        "--header", f"Authorization: Token {platform.token}",
        "--checks", CHECKS, "--max-examples", "15", "--workers", "1", "--request-timeout", "100",
        "--seed", "20261121", "--phases", "examples,coverage,fuzzing", "--suppress-health-check", "all",
        # What these do to the platform is tested by hand in test_first_run: they add and remove the spots that run the rest.
        "--exclude-path-regex", "^/v1/(spots|nodes)/",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=platform.home, timeout=280)
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-3_000:]
