"""uv, as a build uses it: what it is given, where it may write, and what its answers mean.

Everything here is wheels only: uv unpacks files, no code of a package runs. (`.pth` files and the like are data until
an interpreter starts, and the only ones that start with them are inside sandboxes.)
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from uv import find_uv_bin

from faaspot_runner.environments import lock
from faaspot_runner.environments.errors import BuildError, LockError
from faaspot_runner.environments.inside import bytecode
from faaspot_runner.environments.process import Confinement, Finished, Patience, disk_full, run
from faaspot_runner.environments.staging import staged
from faaspot_runner.sandbox.spec import Interpreter

WORKSHOP = "faaspot"
"""Name of the one directory that uv may write to, as it sees it; cache and results in it share a mount for links."""

_KEPT = re.compile(
    r"UV_(DEFAULT_INDEX|INDEX|INDEX_URL|EXTRA_INDEX_URL|FIND_LINKS|NO_INDEX|INDEX_STRATEGY|INDEX_[A-Z0-9_]+_(USERNAME|PASSWORD)"
    r"|INSECURE_HOST|SYSTEM_CERTS|NATIVE_TLS|HTTP_TIMEOUT|HTTP_CONNECT_TIMEOUT|HTTP_RETRIES|EXCLUDE_NEWER|PRERELEASE"
    r"|CONFIG_FILE|NO_CONFIG)"
    r"|SSL_CERT_FILE|SSL_CERT_DIR|SSL_CLIENT_CERT|(HTTP|HTTPS|ALL|NO)_PROXY|(http|https|all|no)_proxy"
)
"""What of the operator's environment uv gets: where the index is and how to reach it."""
_FROM_PIP = {
    "PIP_INDEX_URL": "UV_DEFAULT_INDEX",
    "PIP_EXTRA_INDEX_URL": "UV_EXTRA_INDEX_URL",
    "PIP_FIND_LINKS": "UV_FIND_LINKS",
    "PIP_NO_INDEX": "UV_NO_INDEX",
    "PIP_CERT": "SSL_CERT_FILE",
    "REQUESTS_CA_BUNDLE": "SSL_CERT_FILE",
}
"""What was said to pip alone counts for uv, too. An earlier row wins over a later one."""

_NO_WHEEL = re.compile(
    r"Wheels are required for `([^`]+)`|(?:^|\s)([A-Za-z0-9._-]+)(==\S+)? (?:has|have) no (?:usable )?wheels",
    re.MULTILINE,
)
_DEFAULT_INDEX = re.compile(r"^--index-url (\S+)$", re.MULTILINE)
_EXTRA_INDEX = re.compile(r"^--extra-index-url (\S+)$", re.MULTILINE)
_UV_ADVICE = re.compile(r"^hint: Wheels are required for .*$\n?", re.MULTILINE)
"""What to do about it is said in our words: uv's name options that nobody can pass here."""
_NO_SPACE = re.compile(r"No space left on device|os error 28|Disk quota exceeded")
_EXPLANATION_CHARACTERS = 4000


class NoWheelError(BuildError):
    """Some packages have no wheel that fits: they could only be built from source. `packages` names them."""

    def __init__(self, packages: Sequence[str], explanation: str) -> None:
        named = " and ".join(packages)
        super().__init__(
            f"There is no wheel of {named} for this Python, and wheels only are installed. Choose another version or "
            f'Python, or allow building from source inside a sandbox: --sdist, in JSON "sdist": true.\n{explanation}'
        )
        self.packages = tuple(packages)


def uv_environ(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment variables of uv: from the operator's what concerns indexes and the network, nothing else."""
    kept = {name: value for name, value in environ.items() if _KEPT.fullmatch(name) and value}
    if "UV_INDEX_URL" in kept:
        kept.setdefault("UV_DEFAULT_INDEX", kept.pop("UV_INDEX_URL"))
    for theirs, ours in _FROM_PIP.items():
        if environ.get(theirs):
            # pip separates by blanks where uv wants commas, but an index list of uv takes blanks as well.
            value = environ[theirs]
            kept.setdefault(ours, ",".join(value.split()) if ours == "UV_FIND_LINKS" else value)
    return {**kept, "PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Installer:
    """uv with a cache of its own in `workshop`, running as `uid` (None: as who we are)."""

    workshop: Path
    environ: Mapping[str, str]
    uid: int | None = None

    @property
    def jobs(self) -> Path:
        """Where jobs are under way; nobody but us may make one."""
        return self.workshop / "jobs"

    def prepare(self) -> None:
        """Make the workshop. Idempotent."""
        self.workshop.parent.mkdir(parents=True, exist_ok=True)
        for directory in (self.workshop, self.jobs, self.workshop / "uv"):
            directory.mkdir(exist_ok=True)
            # Said, not left to the umask: the uid walks through the workshop to its own places in it.
            directory.chmod(0o711)
        if self.uid is not None:
            os.chown(self.workshop / "uv", self.uid, self.uid, follow_symlinks=False)

    @contextmanager
    def job(self, interpreter: Interpreter, patience: Patience) -> Iterator[Job]:
        """A place in the workshop for one build, gone afterwards."""
        with staged(self.jobs, owner=self.uid) as directory:
            yield Job(installer=self, interpreter=interpreter, directory=directory, patience=patience)


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """The work of uv and of the byte-compiler for one build. Every method raises BuildError."""

    installer: Installer
    interpreter: Interpreter
    directory: Path
    patience: Patience

    def resolve(self, requirements: Sequence[str]) -> tuple[lock.Package, ...]:
        """The newest versions with wheels that fit together. Raises NoWheelError if a wheel is what is missing."""
        arguments = ["compile", "--generate-hashes", "--only-binary", ":all:", "--no-header", "--no-annotate"]
        arguments += self._target()
        finished = self._uv([*arguments, self._file("requirements.txt", "\n".join(requirements) + "\n")])
        if finished.status != 0:
            raise self._failure(finished)
        try:
            return lock.parse_entries(finished.stdout)
        except LockError as error:
            raise BuildError(f"The resolver's answer cannot be taken: {error}") from error

    def indexes(self) -> tuple[str, ...]:
        """The addresses of the package indexes that uv would ask, in its order, wherever they were configured."""
        arguments = ["compile", "--emit-index-url", "--no-header", self._file("nothing.txt", "")]
        finished = self._uv(arguments)
        if finished.status != 0:
            raise self._failure(finished)
        return tuple(_EXTRA_INDEX.findall(finished.stdout) + _DEFAULT_INDEX.findall(finished.stdout))

    def install(self, packages: Sequence[lock.Package], name: str, *, offline: bool) -> None:
        """Unpack exactly these wheels into a new prefix `name` in the job's directory."""
        entries = "".join(package.render() for package in packages)
        arguments = ["install", "--require-hashes", "--no-deps", "--no-build", "--link-mode", "hardlink"]
        arguments += ["--prefix", str(self._seen() / name), *(["--offline"] if offline else []), *self._target()]
        listed = self._file(f"{name.replace('/', '-')}-{'cached' if offline else 'online'}.txt", entries)
        finished = self._uv([*arguments, "-r", listed])
        if finished.status != 0:
            raise self._failure(finished)

    def compile(self, name: str) -> None:
        """Byte-compile every source in `name`/*/, each of which will be seen as /env, checked by hash.

        The host's interpreter does it and runs none of it. What does not compile is left: importing it says why.
        """
        within = self._confinement()
        self._run([self._python(within), "-I", "-S", "-B", "-c", bytecode.source(), str(self._seen() / name)])

    def _target(self) -> list[str]:
        """For another system than this machine's: which."""
        python = self.interpreter
        return (
            ["--python-platform", python.platform, "--python-version", python.full_version] if python.platform else []
        )

    def _uv(self, arguments: Sequence[str]) -> Finished:
        within = self._confinement()
        cache = within.seen(WORKSHOP) / "uv"
        common = ["--cache-dir", str(cache), "--python", str(self._python(within)), "--no-python-downloads"]
        common += ["--color", "never", "--no-progress", "--quiet"]
        return self._run([within.seen("uv"), "pip", *arguments, *common])

    def _run(self, command: Sequence[str | Path]) -> Finished:
        home = str(self._seen()) if self.installer.uid is not None else self.installer.environ.get("HOME", "/")
        environ = uv_environ(self.installer.environ) | {"HOME": home, "TMPDIR": str(self._seen())}
        if not self.interpreter.system:
            environ["LD_LIBRARY_PATH"] = str(self._confinement().seen("python") / "lib")
        return run(
            command,
            within=self._confinement(),
            environ=environ,
            disk=self.installer.workshop,
            patience=self.patience,
        )

    def _confinement(self) -> Confinement:
        shown = {WORKSHOP: self.installer.workshop, "uv": Path(find_uv_bin())}
        if not self.interpreter.system:
            shown["python"] = self.interpreter.prefix
        return Confinement(uid=self.installer.uid, shown=shown)

    def _python(self, within: Confinement) -> Path:
        if self.interpreter.system:
            return self.interpreter.executable
        return within.seen("python") / self.interpreter.executable.relative_to(self.interpreter.prefix)

    def _seen(self) -> Path:
        """The job's directory as uv knows it."""
        return self._confinement().seen(WORKSHOP) / self.directory.relative_to(self.installer.workshop)

    def _file(self, name: str, text: str) -> str:
        """Write an input of uv; its path as uv knows it. The directory is the uid's, but nothing runs as it yet."""
        descriptor = os.open(self.directory / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644)
        with os.fdopen(descriptor, "w") as file:
            os.fchmod(descriptor, 0o644)  # whatever the umask: the uid reads it
            file.write(text)
        return str(self._seen() / name)

    def _failure(self, finished: Finished) -> BuildError:
        if _NO_SPACE.search(finished.stderr):
            return disk_full()
        explanation = self._explanation(finished)
        if packages := _without_wheel(finished.stderr):
            return NoWheelError(packages, explanation)
        return BuildError(explanation)

    def _explanation(self, finished: Finished) -> str:
        """The resolver's own words without paths of this machine."""
        text = _UV_ADVICE.sub("", finished.stderr).strip().removeprefix("error: ")
        text = text or f"uv ended with status {finished.status} and said nothing."
        for path, word in ((self._seen(), "build"), (self._confinement().seen(WORKSHOP), "cache")):
            text = text.replace(str(path), word)
        return text if len(text) <= _EXPLANATION_CHARACTERS else text[:_EXPLANATION_CHARACTERS] + "\n[cut]"


def _without_wheel(explanation: str) -> tuple[str, ...]:
    """The packages that uv says have no wheel, with their version where it says one."""
    versions: dict[str, str] = {}
    for hinted, name, version in _NO_WHEEL.findall(explanation):
        versions[hinted or name] = version or versions.get(hinted or name, "")
    return tuple(name + version for name, version in versions.items())
