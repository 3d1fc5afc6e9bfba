"""The runtime `docker` on a real engine: images, places for many versions, guests, and what happens when things go."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import signal
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest

from faaspot_runner.connectors import CONNECTORS
from faaspot_runner.connectors.base import Connector, DeploymentConfig, Request, Sandbox
from faaspot_runner.connectors.docker import DockerConnector
from faaspot_runner.contract import Limits, SandboxSpec
from faaspot_runner.docker.config import DockerConfig
from faaspot_runner.errors import DeploymentDefinitionError, EngineError, ImageError, SandboxError
from faaspot_runner.runtimes.manager import DefaultDeploymentManager
from faaspot_runner.sandbox.pidfd import readable
from faaspot_runner.sandbox.profile import profile
from faaspot_runner.sandbox.spec import Material
from tests import docker_engine
from tests.unit.runner.sandbox_driver import interpreter

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]

PYTHON = "/usr/bin/python3"
ENVIRONMENT = "0123456789abcdef0123456789abcdef"
SAME = "def main(args, context):\n    return args['n'] + 1\n"


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    docker_engine.needed()
    yield
    assert docker_engine.objects() == []


@pytest.fixture
def api() -> Iterator[docker.APIClient]:
    client = docker.APIClient(timeout=30)
    yield client
    client.close()


def spec(code: str = "0", **limits: Any) -> SandboxSpec:
    return SandboxSpec(
        version_id=code, deployment="d", version=1, runtime="docker", python="3.11", code=code, limits=Limits(**limits)
    )


def material(code: str, environment: Path | None = None) -> Material:
    return Material(code=code.encode(), python=interpreter(PYTHON), environment=environment)


def config(directory: Path, **more: Any) -> DeploymentConfig:
    return DeploymentConfig(name="docker", type="docker", config=docker_engine.connector_config(directory, **more))


async def run(connector: Connector, code: str, environment: Path | None = None, **limits: Any) -> Any:
    request = Request(execution_id="e", spec=spec(**limits), material=material(code, environment), args='{"n": 1}')
    outcome = await connector.run(request)
    assert outcome.status == "Success", outcome
    return json.loads(outcome.output or "null")


async def opened(connector: Connector, code: str = SAME, name: str = "0") -> Sandbox:
    return await connector.open(spec(name), material(code), time.monotonic() + 20)


def published(directory: Path) -> Path:
    """An environment with one package, as a build leaves it."""
    path = directory / "environments" / ENVIRONMENT
    site = path / "lib/python3.11/site-packages"
    site.mkdir(parents=True)
    (site / "greeting.py").write_text("TEXT = 'hello'\n")
    (path / "bin").mkdir()
    (path / "bin" / "python").symlink_to("/python/bin/python3.11")
    (path / "pyvenv.cfg").write_text("home = /python/bin\ninclude-system-site-packages = false\n")
    for each in (path, *path.rglob("*")):
        if not each.is_symlink():
            each.chmod(0o755 if each.is_dir() else 0o644)
    return path


# ---------------------------------------------------------------- images


def test_packages_come_from_an_image_that_is_made_once_and_forgotten_when_nobody_needs_it(tmp_path: Path) -> None:
    async def story() -> None:
        connector = CONNECTORS["docker"](config(tmp_path))
        environment = published(tmp_path)
        await connector.deploy(False)
        try:
            lines: list[str] = []
            await connector.keep(interpreter(PYTHON), environment, lines.append)
            assert lines[0].startswith("Building the image faaspot-environment:")
            assert sum(each.startswith("image") for each in docker_engine.objects()) == 1
            code = "import greeting\ndef main(args, context):\n    return [greeting.TEXT, greeting.__file__]\n"
            assert await run(connector, code, environment) == [
                "hello", "/env/lib/python3.11/site-packages/greeting.py",
            ]  # fmt: skip
            lines.clear()
            await connector.keep(interpreter(PYTHON), environment, lines.append)
            assert [line.partition(" was ")[2] for line in lines] == ["already there, reused"]
            assert await connector.forget("f" * 32)
            assert len(docker_engine.objects()) == 1
            user = await connector.open(spec("user"), material(SAME, environment), time.monotonic() + 20)
            assert not await connector.forget(ENVIRONMENT), "a container still uses it"
            await user.stop()
            assert await connector.forget(ENVIRONMENT)
            assert docker_engine.objects() == []
        finally:
            await connector.undeploy(False)

    asyncio.run(story())


def test_an_image_that_somebody_made_from_ours_is_left_to_them(tmp_path: Path, api: docker.APIClient) -> None:
    async def story() -> list[str]:
        connector = CONNECTORS["docker"](config(tmp_path))
        await connector.deploy(False)
        try:
            await connector.keep(interpreter(PYTHON), published(tmp_path), lambda _: None)
            (ours,) = api.images(filters={"label": f"faaspot.platform={docker_engine.PLATFORM}"})
            with derived(api, "RUN true", on=ours["RepoTags"][0]) as theirs:
                api.tag(ours["Id"], theirs, "kept")
                assert await connector.forget(ENVIRONMENT)
                left = docker_engine.objects()
                api.remove_image(f"{theirs}:kept")
            return left
        finally:
            await connector.undeploy(False)

    assert asyncio.run(story()) == [f"image ['{docker_engine.NAME}:{tag}']" for tag in ("kept", "latest")]


def test_an_image_that_was_removed_behind_our_back_is_made_again(tmp_path: Path, api: docker.APIClient) -> None:
    async def story() -> None:
        connector = CONNECTORS["docker"](config(tmp_path))
        environment = published(tmp_path)
        await connector.deploy(False)
        try:
            await connector.keep(interpreter(PYTHON), environment, lambda _: None)
            (image,) = api.images(filters={"label": f"faaspot.platform={docker_engine.PLATFORM}"})
            api.remove_image(image["Id"], force=True)
            assert await run(connector, "import greeting\n" + SAME, environment) == 2
            await connector.forget(ENVIRONMENT)
        finally:
            await connector.undeploy(False)

    asyncio.run(story())


@pytest.mark.parametrize("config_key", [{"image": "faaspot-test-nowhere", "pull": "never"}])
def test_a_base_image_that_is_not_there_is_a_failed_build_with_what_to_do(tmp_path: Path, config_key: Any) -> None:
    async def story() -> None:
        connector = CONNECTORS["docker"](config(tmp_path, **config_key))
        await connector.deploy(False)
        try:
            with pytest.raises(ImageError, match="does not have the image faaspot-test-nowhere") as refused:
                await run(connector, SAME)
            assert refused.value.reason == "build_failed"
        finally:
            await connector.undeploy(False)

    asyncio.run(story())


def test_an_image_without_a_python_is_refused(tmp_path: Path, api: docker.APIClient) -> None:
    empty = io.BytesIO()
    with tarfile.open(fileobj=empty, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("nothing"))
    api.import_image_from_data(empty.getvalue(), repository="faaspot-test-empty")

    async def story() -> None:
        connector = CONNECTORS["docker"](config(tmp_path, image="faaspot-test-empty"))
        await connector.deploy(False)
        try:
            with pytest.raises(ImageError, match=r"The image faaspot-test-empty has no CPython 3\.11"):
                await run(connector, SAME)
        finally:
            await connector.undeploy(False)

    try:
        asyncio.run(story())
    finally:
        api.remove_image("faaspot-test-empty")


@contextlib.contextmanager
def derived(api: docker.APIClient, *instructions: str, on: str = docker_engine.IMAGE) -> Iterator[str]:
    """An image on another one, with these instructions."""
    text = "\n".join([f"FROM {on}", *instructions])
    for line in api.build(fileobj=io.BytesIO(text.encode()), tag=docker_engine.NAME, decode=True, rm=True):
        assert "error" not in line, line
    try:
        yield docker_engine.NAME
    finally:
        api.remove_image(docker_engine.NAME)


def test_an_image_that_would_run_something_at_a_build_is_refused(tmp_path: Path, api: docker.APIClient) -> None:
    async def story(image: str) -> None:
        connector = CONNECTORS["docker"](config(tmp_path, image=image))
        await connector.deploy(False)
        try:
            with pytest.raises(ImageError, match=f"The image {image} has ONBUILD instructions"):
                await connector.keep(interpreter(PYTHON), published(tmp_path), lambda _: None)
        finally:
            await connector.undeploy(False)

    with derived(api, "ONBUILD RUN touch /by-root") as image:
        asyncio.run(story(image))


def test_the_volumes_of_an_image_are_small_and_nothing_of_them_stays(tmp_path: Path, api: docker.APIClient) -> None:
    """The engine would make a writable one without a limit for each."""

    async def story(image: str) -> list[dict[str, Any]]:
        connector = CONNECTORS["docker"](config(tmp_path, image=image))
        await connector.deploy(False)
        try:
            sandbox = await opened(connector)
            (container,) = api.containers(filters={"label": f"faaspot.platform={docker_engine.PLATFORM}"})
            told = api.inspect_container(container["Id"])
            mounts = [
                line.split()[1:4] for line in Path(f"/proc/{told['State']['Pid']}/mounts").read_text().split("\n")
            ]
            await sandbox.stop()
            assert (
                await run(connector, "import os\ndef main(args, context):\n    return os.listdir('/srv/data')\n") == []
            )
            assert next(mount for mount in mounts if mount[:1] == ["/srv/data"])[1] == "tmpfs"
            return [mount for mount in told["Mounts"] if mount["Type"] == "volume"]
        finally:
            await connector.undeploy(False)

    with derived(api, "VOLUME /srv/data/ /run/faaspot /tmp") as image:
        assert asyncio.run(story(image)) == []


def test_an_oci_runtime_that_the_engine_does_not_know_is_refused_in_its_words(tmp_path: Path) -> None:
    async def story() -> None:
        connector = CONNECTORS["docker"](config(tmp_path, oci_runtime="no-such-runtime"))
        await connector.deploy(False)
        try:
            with pytest.raises(EngineError, match="no-such-runtime") as refused:
                await run(connector, SAME)
            assert refused.value.reason == "no_spot"
        finally:
            await connector.undeploy(False)

    asyncio.run(story())


# ---------------------------------------------------------------- walls


def test_the_container_is_the_outer_wall_the_engine_was_asked_for(tmp_path: Path, api: docker.APIClient) -> None:
    async def story() -> dict[str, Any]:
        connector = CONNECTORS["docker"](config(tmp_path, cpus="0.5"))
        await connector.deploy(False)
        try:
            sandbox = await opened(connector)
            (container,) = api.containers(filters={"label": f"faaspot.platform={docker_engine.PLATFORM}"})
            told: dict[str, Any] = api.inspect_container(container["Id"])
            told["status"] = Path(f"/proc/{told['State']['Pid']}/status").read_text()
            await sandbox.stop()
            return told
        finally:
            await connector.undeploy(False)

    told = asyncio.run(story())
    host = told["HostConfig"]
    assert (host["NetworkMode"], host["ReadonlyRootfs"], host["Privileged"]) == ("none", True, False)
    assert (host["CapDrop"], host["CapAdd"]) == (["ALL"], None)
    assert (host["NanoCpus"], host["PidsLimit"] > 0, host["Memory"] > 0) == (500_000_000, True, True)
    assert host["Memory"] == host["MemorySwap"]
    assert "no-new-privileges" in host["SecurityOpt"]
    status = dict(line.split(":\t", 1) for line in told["status"].splitlines())
    assert "0" not in status["Uid"].split()
    assert {status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")


def test_a_container_that_is_killed_takes_its_sandbox_with_it_and_the_next_start_works(
    tmp_path: Path, api: docker.APIClient
) -> None:
    async def story() -> None:
        connector = CONNECTORS["docker"](config(tmp_path))
        await connector.deploy(False)
        try:
            sandbox = await opened(connector)
            (container,) = api.containers(filters={"label": f"faaspot.platform={docker_engine.PLATFORM}"})
            api.kill(container["Id"])
            assert await readable(sandbox.fileno(), 5)
            assert not sandbox.alive()
            await sandbox.stop()
            assert docker_engine.objects() == []
            assert await run(connector, SAME) == 2
        finally:
            await connector.undeploy(False)

    asyncio.run(story())


def test_what_an_earlier_spot_left_is_swept_and_others_containers_are_not(
    tmp_path: Path, api: docker.APIClient
) -> None:
    def left(labels: dict[str, str]) -> str:
        made = api.create_container(docker_engine.IMAGE, ["sleep", "60"], labels=labels)
        api.start(made["Id"])
        return str(made["Id"])

    ours = {"faaspot.platform": docker_engine.PLATFORM, "faaspot.spot": "127.0.0.1", "faaspot.runtime": "docker"}
    left(ours)
    kept = [left({**ours, "faaspot.spot": "127.0.0.2"}), left({"faaspot.platform": "another"}), left({})]

    async def story() -> None:
        connector = CONNECTORS["docker"](config(tmp_path))
        await connector.deploy(False)
        await connector.undeploy(False)

    try:
        asyncio.run(story())
        assert len([each for each in docker_engine.objects() if each.startswith("container")]) == 1
        assert all(api.inspect_container(each)["State"]["Running"] for each in kept)
    finally:
        for each in kept:
            api.remove_container(each, force=True)


# ---------------------------------------------------------------- stacks


def stack(directory: Path, inner: dict[str, Any] | None = None) -> DefaultDeploymentManager:
    below = config(directory, **(inner or {}))
    return DefaultDeploymentManager(CONNECTORS, {"docker": below})


WALLED = DeploymentConfig(name="walled", type="sandbox", wraps="docker", config={}, lazy=False)


def test_a_sandbox_on_docker_walls_off_the_versions_of_one_container(tmp_path: Path) -> None:
    """20 first starts at once bring one container up; in it nobody sees a process or a file of another."""
    look = """
import os
SECRET = "canary"
open("/tmp/import", "w").write("x")
def main(args, context):
    return {
        "pids": [int(pid) for pid in os.listdir("/proc") if pid.isdigit()],
        "tmp": os.listdir("/tmp"),
        "image": os.path.exists("/etc/debian_version"),
        "host": os.path.exists("/run/faaspot") or os.path.exists("/run/environments"),
        "ipc": os.readlink("/proc/self/ns/pid"),
    }
"""

    async def story() -> None:
        manager = stack(tmp_path)
        await manager.deploy(WALLED)
        connector = manager.get_connector("walled")
        assert connector is not None
        sandboxes = await asyncio.gather(*(opened(connector, look, str(number)) for number in range(20)))
        assert [each.split()[0] for each in docker_engine.objects()] == ["container"]
        seen = [await run(connector, look) for _ in range(2)]
        assert [(each["pids"], each["tmp"], each["image"], each["host"]) for each in seen] == [
            ([1], [], True, False)
        ] * 2
        await asyncio.gather(*(sandbox.stop() for sandbox in sandboxes))
        assert len(docker_engine.objects()) == 1
        await manager.undeploy_all()

    asyncio.run(story())


def test_a_stack_has_the_packages_of_the_spots_environment(tmp_path: Path) -> None:
    async def story() -> None:
        manager = stack(tmp_path)
        await manager.deploy(WALLED)
        connector = manager.get_connector("walled")
        assert connector is not None
        code = "import greeting\ndef main(args, context):\n    return greeting.TEXT\n"
        assert await run(connector, code, published(tmp_path)) == "hello"
        await manager.undeploy_all()

    asyncio.run(story())


def test_a_sandbox_stands_on_nothing_but_docker(tmp_path: Path) -> None:
    async def story() -> None:
        below = DeploymentConfig(name="plain", type="process", config={"directory": tmp_path})
        manager = DefaultDeploymentManager(CONNECTORS, {"plain": below})
        with pytest.raises(DeploymentDefinitionError, match="no sandbox can be made in the type `process`"):
            await manager.deploy(DeploymentConfig(name="walled", type="sandbox", wraps="plain", config={}, lazy=False))
        await manager.undeploy_all()

    asyncio.run(story())


# ---------------------------------------------------------------- a container that the user runs


@pytest.fixture
def guest(api: docker.APIClient, tmp_path: Path) -> Iterator[str]:
    """A container as its user would start it for us."""
    shared = Path(tempfile.mkdtemp(prefix="faaspot-tests-"))
    shared.chmod(0o711)
    (tmp_path / "environments").mkdir()
    host = api.create_host_config(
        security_opt=["no-new-privileges", f"seccomp={json.dumps(profile())}"],
        cap_drop=["ALL"],
        network_mode="none",
        mounts=[
            docker.types.Mount("/run/faaspot", str(shared), type="bind", read_only=True),
            docker.types.Mount("/run/environments", str(tmp_path / "environments"), type="bind", read_only=True),
        ],
    )
    host |= {"MaskedPaths": [], "ReadonlyPaths": []}
    made = api.create_container(docker_engine.IMAGE, ["sleep", "600"], host_config=host, stop_signal="SIGKILL")
    api.start(made["Id"])
    yield str(made["Id"])
    api.remove_container(made["Id"], force=True)
    shared.rmdir()


def external(directory: Path, container: str) -> DeploymentConfig:
    given = docker_engine.connector_config(directory, container=container)
    return DeploymentConfig(name="docker", type="docker", config=given, external=True)


def test_an_external_container_is_used_and_left_as_it_is(tmp_path: Path, guest: str, api: docker.APIClient) -> None:
    async def story() -> None:
        connector = CONNECTORS["docker"](external(tmp_path, guest))
        await connector.deploy(True)
        code = "import greeting\ndef main(args, context):\n    return greeting.TEXT\n"
        assert await run(connector, code, published(tmp_path)) == "hello"
        assert await run(connector, SAME) == 2
        await connector.undeploy(True)

    asyncio.run(story())
    assert api.inspect_container(guest)["State"]["Running"]
    assert [row[-1] for row in api.top(guest)["Processes"]] == ["sleep 600"]


def test_an_external_container_that_is_not_there_is_refused_with_what_to_do(tmp_path: Path) -> None:
    async def story() -> None:
        connector = CONNECTORS["docker"](external(tmp_path, "faaspot-test-nowhere"))
        await connector.deploy(True)
        try:
            with pytest.raises(EngineError, match=r"no container faaspot-test-nowhere\. Start it with"):
                await run(connector, SAME)
        finally:
            await connector.undeploy(True)

    asyncio.run(story())


# ---------------------------------------------------------------- definitions


@pytest.mark.parametrize(
    ("said", "text"),
    [
        ({"colour": "red"}, "config.colour: unknown key; this type takes image, pull"),
        ({"image": "x; rm -rf /"}, "config.image: must be the name of an image"),
        ({"image": "x{{"}, "config.image: must be the name of an image"),
        ({"memory": "1"}, "config.memory: must be from 64 to"),
        ({"memory": 512}, "config.memory: must be a whole number of MB, as text"),
        ({"memory": "512.5"}, "config.memory: must be a whole number of MB, as text"),
        ({"cpus": "nan"}, "config.cpus: must be a number of processors, as text"),
        ({"pull": "always"}, "config.pull: must be missing or never"),
        ({"oci_runtime": "../runc"}, "config.oci_runtime: must be the name of an OCI runtime"),
        ({"container": "mine"}, "config.container: is only for an external runtime"),
    ],
)
def test_a_config_that_cannot_be_is_refused_by_its_key(tmp_path: Path, said: dict[str, Any], text: str) -> None:
    with pytest.raises(DeploymentDefinitionError) as refused:
        DockerConnector(config(tmp_path, **said))
    assert text in str(refused.value)


def test_numbers_come_as_texts_and_the_image_may_have_the_python_in_its_name() -> None:
    said = {"cpus": "1.5", "memory": "512", "pids": "64", "image": "python:{python}-slim"}
    config = DockerConfig.of("d", said, external=False)
    assert (config.cpus, config.memory, config.pids) == (1.5, 512, 64)
    assert config.image_for("3.11") == "python:3.11-slim"


def test_a_launcher_that_lost_its_spot_ends_and_its_container_with_it(tmp_path: Path, api: docker.APIClient) -> None:
    """A spot that is killed closes its sockets: what it leaves are exited containers, which its next start sweeps."""

    def spot() -> None:
        async def story() -> None:
            connector = CONNECTORS["docker"](config(tmp_path))
            await connector.deploy(False)
            await opened(connector)
            os.kill(os.getpid(), signal.SIGKILL)

        asyncio.run(story())

    pid = os.fork()
    if pid == 0:
        try:
            spot()
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    (container,) = api.containers(all=True, filters={"label": f"faaspot.platform={docker_engine.PLATFORM}"})
    api.wait(container["Id"], timeout=10)

    async def next_start() -> None:
        connector = CONNECTORS["docker"](config(tmp_path))
        await connector.deploy(False)
        await connector.undeploy(False)

    asyncio.run(next_start())


def test_a_sandbox_error_of_the_start_leaves_no_container(tmp_path: Path) -> None:
    async def story() -> None:
        connector = CONNECTORS["docker"](config(tmp_path))
        await connector.deploy(False)
        try:
            with pytest.raises(SandboxError) as failed:
                await opened(connector, "1 / 0")
            assert failed.value.reason == "error"
            assert docker_engine.objects() == []
        finally:
            await connector.undeploy(False)

    asyncio.run(story())
