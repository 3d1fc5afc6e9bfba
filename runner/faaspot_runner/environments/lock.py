"""The lock of an environment: which packages, in which versions, with which file hashes. Pure text, no I/O.

Locks come from a resolver that has read what strangers wrote, or out of a sandbox. So they are parsed strictly and
rendered again, and only the rendered text goes on: a name, one exact version, perhaps a marker, sha256 hashes.
No URL, no path, no option can be said in it.

    # faaspot lock 1
    jinja2==3.1.6 \\
        --hash=sha256:0137fb05990d35f1275a587e9aee6d56da821fc83491a0fb838183be43f66d6d
"""

from __future__ import annotations

import hashlib
import itertools
import re
from dataclasses import dataclass

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from faaspot_runner.environments.errors import LockError

MAX_BYTES = 4 * 1024 * 1024
MAX_PACKAGES = 2000
MAX_LINE = 1000
MAX_NESTING = 50

_HEADER = "# faaspot lock 1"
_HEADER_SDIST = _HEADER + ", source distributions built in a sandbox"
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")
_CONTROL = re.compile(r"[^\x20-\x7e\n]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """One pinned package. `hashes`: sha256 hex of the files that may be installed, sorted, at least one."""

    name: str
    version: str
    marker: str | None
    hashes: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.name}=={self.version}"

    def render(self) -> str:
        """The entry as a requirements file has it."""
        head = f"{self}; {self.marker}" if self.marker else str(self)
        return " \\\n    ".join((head, *(f"--hash=sha256:{digest}" for digest in self.hashes))) + "\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lock:
    """Pinned packages, sorted by name. `sdist`: some may be built from source, which happens inside a sandbox only."""

    packages: tuple[Package, ...]
    sdist: bool = False

    def render(self) -> str:
        """The canonical text: equal locks, equal texts."""
        header = _HEADER_SDIST if self.sdist else _HEADER
        return header + "\n" + "".join(package.render() for package in self.packages)

    def environment_name(self, interpreter: str) -> str:
        """The name of the environment that this lock and an interpreter (see `Interpreter.identity`) make."""
        return digest("environment", interpreter, self.render())


def digest(*parts: str) -> str:
    """A name of 32 hex digits (128 bits of sha256) for these texts."""
    joined = "".join(f"{len(part)}:{part}" for part in parts)
    return hashlib.sha256(joined.encode()).hexdigest()[:32]


def parse(text: str) -> Lock:
    """The lock that `Lock.render` wrote. Raises LockError for anything else."""
    header, _, body = text.partition("\n")
    if header not in (_HEADER, _HEADER_SDIST):
        raise LockError("this is not a lock of this platform's format")
    return Lock(packages=parse_entries(body), sdist=header == _HEADER_SDIST)


def parse_entries(text: str) -> tuple[Package, ...]:
    """The packages of a resolver's output, in order of name. Raises LockError."""
    if len(text) > MAX_BYTES:
        raise LockError(f"the lock is larger than {MAX_BYTES} bytes")
    if _CONTROL.search(text):
        raise LockError("the lock has a control character")
    entries = [line for line in text.replace("\\\n", " ").split("\n") if line.strip()]
    if len(entries) > MAX_PACKAGES:
        raise LockError(f"the lock has {len(entries)} packages, at most {MAX_PACKAGES} are installed")
    packages = sorted((_package(entry) for entry in entries), key=lambda package: package.name)
    for package, following in itertools.pairwise(packages):
        if package.name == following.name:
            raise LockError(f"the lock has {package.name} twice")
    return tuple(packages)


def _package(entry: str) -> Package:
    head, *options = entry.strip().split(" --")
    hashes = [_HASH.fullmatch("--" + option.strip()) for option in options]
    if not hashes or not all(hashes):
        raise LockError(f"a lock entry has no hash, or something else than hashes: {entry[:100]!r}")
    if len(head) > MAX_LINE or head.count("(") > MAX_NESTING:
        raise LockError(f"a lock entry is too long: {entry[:100]!r}")
    try:
        requirement = Requirement(head)
    except InvalidRequirement as error:
        raise LockError(f"a lock entry cannot be read: {entry[:100]!r}") from error
    marker = str(requirement.marker) if requirement.marker else None
    package = Package(
        name=canonicalize_name(requirement.name),
        version=_exact_version(requirement),
        marker=marker,
        hashes=tuple(sorted({match.group(1) for match in hashes if match})),
    )
    if marker and (set(marker) & set("\\#$\n") or str(Requirement(f"{package}; {marker}").marker) != marker):
        raise LockError(f"a lock entry has a marker that does not read back: {entry[:100]!r}")
    return package


def _exact_version(requirement: Requirement) -> str:
    specifiers = list(requirement.specifier)
    if requirement.url or requirement.extras or len(specifiers) != 1:
        raise LockError(f"a lock entry is not one exact version: {str(requirement)[:100]!r}")
    (specifier,) = specifiers
    if specifier.operator != "==" or specifier.version.endswith(".*"):
        raise LockError(f"a lock entry is not one exact version: {str(requirement)[:100]!r}")
    return specifier.version
