"""What an image is: its interpreter starts once, in a narrow container, and tells. It is checked, not trusted."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from faaspot_runner.errors import ImageError
from faaspot_runner.sandbox.mounts import NOT_AN_IMAGES, OURS

PROGRAM = """
import json, os, platform, sys, sysconfig
name = "python%d.%d" % sys.version_info[:2]
print(json.dumps({
    "implementation": sys.implementation.name,
    "version": list(sys.version_info[:3]),
    "prefix": os.path.realpath(sys.base_prefix),
    "named": os.path.exists(os.path.join(sys.base_prefix, "bin", name)),
    "abi": sysconfig.get_config_var("SOABI") or "",
    "libc": (os.confstr("CS_GNU_LIBC_VERSION") if "CS_GNU_LIBC_VERSION" in os.confstr_names else "") or "",
    "musl": "musl" in (sysconfig.get_config_var("HOST_GNU_TYPE") or ""),
    "machine": platform.machine(),
}))
"""
MANYLINUX = (40, 39, 38, 37, 36, 35, 34, 33, 32, 31, 28, 17)
"""Minor versions of glibc that uv knows wheels for."""
_PREFIX = re.compile(r"(/(?!\.{1,2}(/|$))[A-Za-z0-9._-]+)+")
_ABI = re.compile(r"[a-z0-9_-]{1,64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """An image's interpreter. `platform`: what wheels must be made for, in uv's words."""

    full_version: str
    prefix: str
    abi: str
    platform: str


def facts(image: str, said: str, python: str) -> Facts:
    """What the probe said in that image. Raises ImageError if functions for `python` cannot run in it."""
    try:
        told = json.loads(said)
        major, minor, micro = (int(part) for part in told["version"])
        prefix, abi, machine = str(told["prefix"]), str(told["abi"]), str(told["machine"])
        libc = str(told["libc"])
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        raise ImageError(f"The image {image} has no CPython {python}: no python starts in it.") from None
    if told.get("implementation") != "cpython" or f"{major}.{minor}" != python:
        raise ImageError(f"The image {image} has Python {major}.{minor}, and the function is for {python}.")
    if not told.get("named") or not _PREFIX.fullmatch(prefix) or not _ABI.fullmatch(abi):
        raise ImageError(f"The CPython of the image {image} is not at bin/python{python} of its prefix.")
    if (top := prefix.split("/")[1]) in NOT_AN_IMAGES | OURS:
        raise ImageError(f"The CPython of the image {image} is in /{top}, which functions do not see. Use /opt, say.")
    return Facts(
        full_version=f"{major}.{minor}.{micro}",
        prefix=prefix,
        abi=abi,
        platform=_platform(image, machine, libc, musl=bool(told.get("musl"))),
    )


def _platform(image: str, machine: str, libc: str, *, musl: bool) -> str:
    if machine not in ("x86_64", "aarch64"):
        raise ImageError(f"The image {image} is for {machine}, where functions do not run.")
    if musl:
        return f"{machine}-unknown-linux-musl"
    number = re.fullmatch(r"glibc 2\.(\d+)", libc)
    found = next((minor for minor in MANYLINUX if number and minor <= int(number.group(1))), None)
    if found is None:
        raise ImageError(f"The image {image} has not the C library that is needed: glibc 2.17 or newer, or musl.")
    return f"{machine}-manylinux_2_{found}"
