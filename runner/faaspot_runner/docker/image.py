"""Images: the base that a runtime names, and one image for each environment on top of it.

An image of an environment is the base with the environment's directory at /env. The directory was installed from its
lock, hashes checked, without running a line of any package; the engine only copies it. Its name is the digest of the
environment (a digest itself, of lock and interpreter), the base image's id and the format, so versions share it.
"""

from __future__ import annotations

import dataclasses
import json
import re
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from faaspot_runner.docker.config import DockerConfig
from faaspot_runner.docker.container import Container, Wanted
from faaspot_runner.docker.engine import ENVIRONMENT, PLATFORM, Engine, Owner, not_there
from faaspot_runner.docker.guest import Guest
from faaspot_runner.docker.probe import PROGRAM, Facts, facts
from faaspot_runner.errors import EngineError, ImageError
from faaspot_runner.sandbox.spec import Interpreter

if TYPE_CHECKING:
    from faaspot_runner.docker.client import APIClient

FORMAT = "1"
REPOSITORY = "faaspot-environment"
PROBE_SECONDS = 60
PULL_SECONDS = BUILD_SECONDS = 1800
"""What an image may take to come or to be made, from one end to the other."""
PROBE_UID = 65_534
_PROBE_BYTES = 65_536
_POLL_SECONDS = 0.05
_DIGEST = re.compile(r"[0-9a-f]{32}")

Log = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """A base image that functions of one Python can run in. `id`: the engine's; `prefix`: of its interpreter.

    `volumes`: directories for which the image asks for volumes.
    """

    id: str
    name: str
    prefix: str
    target: Interpreter
    volumes: tuple[str, ...] = ()


class Images:
    """The images of one runtime. Everything here asks the engine and may block; threads may share it."""

    def __init__(self, engine: Engine, owner: Owner, config: DockerConfig, runtime: str) -> None:
        self._engine = engine
        self._owner = owner
        self._config = config
        self._runtime = runtime
        self._probing, self._building = threading.Lock(), threading.Lock()
        self._facts: dict[tuple[str, str], Facts] = {}

    def base(self, python: Interpreter, log: Log) -> Base:
        """The base image for that Python, fetched if it is not there. Raises ImageError, EngineError."""
        name = self._config.image_for(python.version)
        identity, volumes = _usable(name, self._told(name, log))
        with self._probing:
            known = self._facts.get((identity, python.version))
            if known is None:
                known = self._facts[identity, python.version] = self._probe(name, identity, volumes, python.version)
        return _base(identity, name, known, python, volumes)

    def of_guest(self, guest: Guest, python: Interpreter) -> Base:
        """The same of a container that the user runs. Raises ImageError, EngineError."""
        known = self._facts.get((guest.id, python.version))
        if known is None:
            said = guest.output((f"python{python.version}", "-I", "-S", "-B", "-c", PROGRAM))
            known = self._facts[guest.id, python.version] = facts(
                f"of the container {guest.id[:12]}", said, python.version
            )
        return _base(guest.id, guest.id, known, python)

    def of_environment(self, base: Base, environment: Path, log: Log) -> str:
        """The name of the image of a published environment, built if it is not there. Raises as `base`."""
        name = self.name(base, environment.name)
        if not self._is_there(name):
            with self._building:
                if not self._is_there(name):
                    self._build(base, environment, name, log)
                    return name
        log(f"Image {name} was already there, reused")
        return name

    def forget(self, environment: str) -> bool:
        """Remove every image of an environment; False if a container still uses one, which goes with a later call."""
        return remove_images(self._engine, self._owner, lambda label: label == environment)

    @staticmethod
    def name(base: Base, environment: str) -> str:
        """The tag of the image of an environment on that base."""
        return f"{REPOSITORY}:{environment}-{base.id.removeprefix('sha256:')[:24]}-{FORMAT}"

    # ------------------------------------------------------------ base

    def _told(self, name: str, log: Log) -> dict[str, Any]:
        """What the engine knows of a base image, fetched if it is not there."""
        try:
            return self._inspect(name)
        except EngineError as error:
            if not not_there(error):
                raise
        if self._config.pull == "never":
            raise ImageError(f"The engine does not have the image {name}, and the runtime says pull: never.")
        log(f"Fetching the image {name}")
        try:
            self._engine.ask(f"fetch the image {name}", lambda api: _pull(api, name))
            return self._inspect(name)
        except EngineError as error:
            if error.status == 0:
                raise
            raise ImageError(
                f"The base image {name} is not there and cannot be fetched. Pull or build it on this spot, or name "
                f"another one (config key image, or FAASPOT_SPOT_DOCKER_IMAGE). {error}"
            ) from error

    def _inspect(self, name: str) -> dict[str, Any]:
        told: dict[str, Any] = self._engine.ask(
            f"look at the image {name}",
            lambda api: api.inspect_image(name),  # type: ignore[no-untyped-call]
        )
        return told

    def _is_there(self, name: str) -> bool:
        try:
            self._inspect(name)
        except EngineError as error:
            if not_there(error):
                return False
            raise
        return True

    def _probe(self, name: str, identity: str, volumes: tuple[str, ...], python: str) -> Facts:
        """Start the image's interpreter, in a container as narrow as those of functions, to ask what it is."""
        said, wanted = "", self._wanted(identity, volumes)
        for program in (f"python{python}", "python3", "python"):
            command = (program, "-I", "-S", "-B", "-c", PROGRAM)
            try:
                said = self._output(name, dataclasses.replace(wanted, command=command))
            except EngineError as error:
                # The engine has no better word for a program that is not in the image.
                if not any(text in str(error) for text in ("executable file not found", "no such file")):
                    raise
                continue
            break
        return facts(name, said, python)

    def _wanted(self, identity: str, volumes: tuple[str, ...]) -> Wanted:
        return Wanted(
            image=identity,
            uid=PROBE_UID,
            memory_mb=256,
            pids=32,
            oci_runtime=self._config.oci_runtime,
            labels=self._owner.labels(self._runtime),
            volumes=volumes,
        )

    def _output(self, name: str, wanted: Wanted) -> str:
        """What the probe prints in a throw-away container, bounded. Raises ImageError if it does not end."""
        container = Container.start(self._engine, wanted)
        try:
            _wait(container, name)
            said = self._engine.ask("read a container's output", lambda api: api.logs(container.id, stderr=False))
            return bytes(said)[:_PROBE_BYTES].decode(errors="replace")
        finally:
            container.remove()

    # ------------------------------------------------------------ environments

    def _build(self, base: Base, environment: Path, name: str, log: Log) -> None:
        log(f"Building the image {name} on {base.name}")
        labels = {PLATFORM: self._owner.platform, ENVIRONMENT: environment.name}
        with tempfile.TemporaryFile() as context:
            _pack(context, _dockerfile(base, labels), environment)
            context.seek(0)
            try:
                self._engine.ask(f"build the image {name}", lambda api: _raise_failed(_lines(api, context, name), log))
            except EngineError as error:
                if error.status == 0:
                    raise
                raise ImageError(str(error)) from error  # a full disk, say
        log(f"Built the image {name}")


def _wait(container: Container, name: str) -> None:
    """Return when the probe has ended. The engine answers meanwhile: a python that hangs is the image's own fault."""
    deadline = time.monotonic() + PROBE_SECONDS
    while container.state()["Running"]:
        if time.monotonic() > deadline:
            raise ImageError(f"The python of the image {name} did not tell of itself within {PROBE_SECONDS} seconds.")
        time.sleep(_POLL_SECONDS)


def _usable(name: str, told: Mapping[str, Any]) -> tuple[str, tuple[str, ...]]:
    """The id of a base image that runs nothing at a build, and its volumes. Raises ImageError."""
    config = told.get("Config") or {}
    if config.get("OnBuild"):
        # They would be root's, in a container with the engine's walls alone.
        raise ImageError(f"The image {name} has ONBUILD instructions, which every build would run. Name one without.")
    return str(told["Id"]), tuple(sorted(config.get("Volumes") or ()))


def _base(identity: str, name: str, known: Facts, python: Interpreter, volumes: tuple[str, ...] = ()) -> Base:
    target = dataclasses.replace(python, full_version=known.full_version, abi=known.abi, platform=known.platform)
    return Base(id=identity, name=name, prefix=known.prefix, target=target, volumes=volumes)


def sweep_images(engine: Engine, owner: Owner, kept: Callable[[str], bool]) -> None:
    """Remove the platform's images of environments that it does not keep any more. Raises EngineError."""
    remove_images(engine, owner, lambda environment: not kept(environment))


def remove_images(engine: Engine, owner: Owner, unwanted: Callable[[str], bool]) -> bool:
    """Remove those images of the platform whose environment is unwanted, but none that is in use: False if one is.

    By the names that we give: an image that somebody made from one of ours has its labels, too.
    """
    labels = [f"{PLATFORM}={owner.platform}"]
    removed = True
    for image in engine.ask("list images", lambda api: api.images(filters={"label": labels})):
        environment = (image.get("Labels") or {}).get(ENVIRONMENT, "")
        if not _DIGEST.fullmatch(environment) or not unwanted(environment):
            continue
        for name in image.get("RepoTags") or ():
            if name.startswith(f"{REPOSITORY}:"):
                removed &= _remove(engine, name)
    return removed


def _remove(engine: Engine, name: str) -> bool:
    try:
        engine.ask("remove an image", lambda api: api.remove_image(name))
    except EngineError as error:
        if error.status not in (404, 409):  # gone, or a container needs it
            raise
        return error.status == 404
    return True


def _pull(api: APIClient, name: str) -> None:
    from faaspot_runner.docker.client import parse_repository_tag

    repository, tag = parse_repository_tag(name)
    lines = api.pull(repository, tag=tag or "latest", stream=True, decode=True)
    for line in _within(PULL_SECONDS, lines, f"The image {name} cannot be fetched"):
        if "error" in line:
            raise ImageError(f"The image {name} cannot be fetched: {line['error']}")


def _dockerfile(base: Base, labels: Mapping[str, str]) -> bytes:
    said = " ".join(f"{name}={json.dumps(value)}" for name, value in labels.items())
    return f"FROM {base.id}\nCOPY env /env\nLABEL {said}\n".encode()


def _pack(file: IO[bytes], dockerfile: bytes, environment: Path) -> None:
    """The build's context. Raises ImageError if the environment cannot be read or the disk is full."""
    try:
        with tarfile.open(fileobj=file, mode="w") as tar:
            header = tarfile.TarInfo("Dockerfile")
            header.size = len(dockerfile)
            with tempfile.SpooledTemporaryFile(max_size=1 << 20) as text:
                text.write(dockerfile)
                text.seek(0)
                tar.addfile(header, text)
            tar.add(environment, "env", filter=_roots)
    except OSError as error:
        raise ImageError(f"The environment could not be packed for its image: {error.strerror or error}.") from error


def _roots(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    """Owned by root in the image, whoever installed it."""
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    return entry


def _lines(api: APIClient, context: IO[bytes], name: str) -> Iterator[dict[str, Any]]:
    lines: Iterator[dict[str, Any]] = api.build(
        fileobj=context,
        custom_context=True,
        tag=name,
        rm=True,
        forcerm=True,
        decode=True,
        network_mode="none",
        timeout=BUILD_SECONDS,  # an engine says nothing while it copies
    )
    return _within(BUILD_SECONDS, lines, f"The image {name} cannot be built")


def _within(seconds: float, lines: Iterator[dict[str, Any]], failure: str) -> Iterator[dict[str, Any]]:
    """What the engine says, as long as it has not said for longer than that how far it is. Raises ImageError."""
    deadline = time.monotonic() + seconds
    for line in lines:
        if time.monotonic() > deadline:
            raise ImageError(f"{failure}: it took more than {seconds:g} seconds.")
        yield line


def _raise_failed(lines: Iterator[dict[str, Any]], log: Log) -> None:
    for line in lines:
        if "error" in line:
            raise ImageError(f"The image could not be built: {str(line['error'])[:2000]}")
        if text := str(line.get("stream", "")).strip():
            log(text)
