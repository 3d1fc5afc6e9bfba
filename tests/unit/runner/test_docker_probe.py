"""What an image says of itself is taken only in the form in which our probe says it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from faaspot_runner.docker.probe import PROGRAM, facts
from faaspot_runner.errors import ImageError

SAID = {
    "implementation": "cpython",
    "version": [3, 11, 2],
    "prefix": "/usr/local",
    "named": True,
    "abi": "cpython-311-x86_64-linux-gnu",
    "libc": "glibc 2.36",
    "musl": False,
    "machine": "x86_64",
}


def said(**changed: object) -> str:
    return json.dumps({**SAID, **changed})


@pytest.mark.parametrize(
    ("changed", "platform"),
    [
        ({}, "x86_64-manylinux_2_36"),
        ({"libc": "glibc 2.41"}, "x86_64-manylinux_2_40"),
        ({"libc": "glibc 2.30"}, "x86_64-manylinux_2_28"),
        ({"machine": "aarch64"}, "aarch64-manylinux_2_36"),
        ({"libc": "", "musl": True}, "x86_64-unknown-linux-musl"),
    ],
)
def test_wheels_are_chosen_for_the_images_c_library(changed: dict[str, object], platform: str) -> None:
    found = facts("image", said(**changed), "3.11")
    assert (found.full_version, found.prefix, found.platform) == ("3.11.2", "/usr/local", platform)


@pytest.mark.parametrize(
    ("text", "refusal"),
    [
        ("", "has no CPython 3.11"),
        ("[]", "has no CPython 3.11"),
        (said(version="3"), "has no CPython 3.11"),
        (said(version=[3, 12, 0]), "has Python 3.12, and the function is for 3.11"),
        (said(implementation="pypy"), "the function is for 3.11"),
        (said(prefix="/usr/../etc"), "is not at bin/python3.11"),
        (said(prefix="/usr'; x"), "is not at bin/python3.11"),
        (said(version=[3, 11, 0]).replace("0]", "1e999]"), "has no CPython 3.11"),
        ("[" * 100_000, "has no CPython 3.11"),
        (said(prefix="/home/user/.pyenv"), "is in /home, which functions do not see"),
        (said(prefix="/python"), "is in /python, which functions do not see"),
        (said(named=False), "is not at bin/python3.11"),
        (said(libc="glibc 2.5"), "C library"),
        (said(machine="riscv64"), "is for riscv64"),
    ],
)
def test_an_image_that_functions_cannot_run_in_is_refused(text: str, refusal: str) -> None:
    with pytest.raises(ImageError, match=refusal):
        facts("image", text, "3.11")


def test_the_probe_says_what_is_read() -> None:
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    output = subprocess.check_output([sys.executable, "-I", "-S", "-c", PROGRAM], text=True)
    said = json.dumps({**json.loads(output), "prefix": "/usr/local"})  # wherever that of the tests is
    assert facts("this machine", said, version).full_version == sys.version.split()[0]
