"""The image of the platform on a real engine: in one container with the options that docs/container.md names, and in
parts by compose.yaml.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shlex
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.compose import Project
from tests.docker_engine import NAME, docker, gateway, inspect, needed, network, port
from tests.platform_image import platform_image, servers_image
from tests.platforms import ROOT, Platform, eventually
from tests.redis_sentinels import free_ports
from tests.unit.runner.package_index import PackageIndex

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

CODE = """
import os, greeting

def main(args, context):
    print("hello from", os.getpid())
    return {"version": greeting.VERSION, "key": context["KEY"], "uid": os.getuid(), "n": args["n"]}
"""
WAITING = "import time\ndef main(args, context):\n    time.sleep(3)\n    return 'done'\n"
HEALTHY_SECONDS = 60.0
REFUSED, CANNOT_KEEP = 2, 1
ROOTS = ("CHOWN", "DAC_OVERRIDE", "FOWNER", "KILL", "SETFCAP", "SETGID", "SETUID")


@pytest.fixture(scope="module")
def image() -> Iterator[str]:
    needed()
    with platform_image() as built:
        yield built


def documented() -> list[str]:
    """The options of `docker run` in docs/container.md that are not about names, ports and places."""
    text = (ROOT / "docs" / "container.md").read_text()
    command = re.search(r"^docker run -d (.*?)\\\n    faaspot$", text, re.MULTILINE | re.DOTALL)
    assert command is not None
    words = shlex.split(command[1].replace("\\\n", " "))
    named = {"--name", "-p", "-v"}
    return [
        word for before, word in zip(["", *words], words, strict=False) if word not in named and before not in named
    ]


class Container:
    """A platform in a container, reachable by its published port."""

    def __init__(self, image: str, *options: str) -> None:
        self.name = f"{NAME}-{secrets.token_hex(3)}"
        docker("run", "--detach", "--name", self.name, "--publish", "127.0.0.1::8000", *options, image)

    def __enter__(self) -> Container:
        return self

    def __exit__(self, *_: object) -> None:
        docker("rm", "--force", "--volumes", self.name)

    @property
    def state(self) -> dict[str, Any]:
        found: dict[str, Any] = inspect(self.name)["State"]
        return found

    def healthy(self) -> Platform:
        """The platform, once the image's health check says that it is well."""

        def well() -> bool:
            state = self.state
            assert state["Running"], self.output()
            return bool(state["Health"]["Status"] == "healthy")

        eventually(well, HEALTHY_SECONDS, "the container is healthy")
        token = self.exec("cat", "/var/lib/faaspot/admin-token").strip()
        return Platform(setup="root", home=Path("/"), url=f"http://127.0.0.1:{port(self.name)}", token=token)

    def ready(self, times: int) -> None:
        """Wait until it has said so that often."""
        eventually(
            lambda: self.output().count("is ready at") == times or not self.state["Running"], HEALTHY_SECONDS, "ready"
        )
        assert self.state["Running"], self.output()

    def exec(self, *command: str) -> str:
        return docker("exec", self.name, *command).stdout

    def output(self) -> str:
        done = docker("logs", self.name)
        return done.stdout + done.stderr

    def ended(self) -> int:
        """Its exit code, once it has one."""
        return int(docker("wait", self.name).stdout)

    def stop(self) -> int:
        docker("stop", self.name)
        return int(self.state["ExitCode"])


@contextlib.contextmanager
def greetings(host: str) -> Iterator[PackageIndex]:
    """A package index that containers reach."""
    with PackageIndex(host=host) as index:
        index.wheel("greeting", "1.5")
        yield index


def check_function(platform: Platform) -> None:
    """A function with a requirement and a context is built, runs, and leaves its record."""
    platform.deploy("hello", CODE, requirements="greeting", context="KEY=secret of hello")
    answer = platform.run("hello", {"n": 1})
    assert answer.status == 200, answer
    assert answer.json == {"version": "1.5", "key": "secret of hello", "uid": 1000, "n": 1}
    execution = answer.headers["Execution-Id"]
    assert platform.ended(execution)["status"] == "Success"
    assert "hello from 1" in platform.logs(execution)


# ---------------------------------------------------------------- one container


def test_with_the_documented_options_it_runs_functions_and_drains(image: str) -> None:
    with network() as (net, host), greetings(host) as index:
        options = [*documented(), "--network", net, "--env", f"UV_DEFAULT_INDEX={index.url}"]
        with Container(image, *options) as container:
            platform = container.healthy()
            check_function(platform)
            said = json.loads(container.exec("fas", "doctor", "--json"))
            checks = {(check["section"], check["name"]): check for check in said["checks"]}
            assert said["ok"]
            assert (said["limits"], said["user"]) == ("rlimit", "ordinary")
            assert checks["container", "engine"]["answer"] == "ok"
            assert checks["container", "user"]["text"] == "uid 61990, capabilities: none"
            assert checks["limits", "grade rlimit"]["what_to_do"].endswith("-v /sys/fs/cgroup:/sys/fs/cgroup")
            platform.deploy("waiting", WAITING)
            execution = platform.start_run("waiting")
            eventually(lambda: platform.record(execution)["status"] == "Started", 10, "the run has started")
            assert container.stop() == 0, container.output()
            docker("start", container.name)
            assert container.healthy().token == platform.token
            platform.url = f"http://127.0.0.1:{port(container.name)}"
            assert platform.record(execution)["status"] == "Success", "what ran when SIGTERM came was waited for"
            assert platform.run("hello", {"n": 2}).json["n"] == 2


def test_as_root_with_cgroups_the_kernel_keeps_the_limits(image: str) -> None:
    given = [*documented(), *(f"--cap-add={name}" for name in ROOTS)]
    given += ["--user", "0", "--cgroupns", "host", "--volume", "/sys/fs/cgroup:/sys/fs/cgroup"]
    with Container(image, *given) as container:
        container.ready(1)
        said = json.loads(container.exec("fas", "doctor", "--json"))
        assert (said["ok"], said["limits"], said["user"]) == (True, "cgroup", "root")
        container.exec("sh", "-c", "printf 'def main(args, context):\\n    return 7\\n' > /tmp/seven.py")
        container.exec("fas", "deployments", "create", "seven", "--file", "/tmp/seven.py", "--wait")
        assert container.exec("fas", "deployments", "run", "seven", "--wait").strip() == "7"
        assert container.stop() == 0, container.output()
        docker("start", container.name)
        container.ready(2)
        assert container.exec("fas", "deployments", "run", "seven", "--wait").strip() == "7"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ((), "--security-opt seccomp=seccomp.json --security-opt systempaths=unconfined"),
        (("--security-opt=seccomp=deploy/seccomp.json",), "start the container with --security-opt systempaths="),
        (("--user=0", "--cap-drop=ALL", "--cap-add=CHOWN"), "--cap-add DAC_OVERRIDE --cap-add FOWNER --cap-add KILL"),
    ],
)
def test_without_its_rights_it_says_which_option_gives_them(image: str, options: tuple[str, ...], says: str) -> None:
    with Container(image, *options) as container:
        assert container.ended() == REFUSED
        assert says in container.output()
    done = docker("run", "--rm", *options, image, "fas", "doctor", "--json", check=False)
    assert done.returncode == CANNOT_KEEP, done.stderr
    steps = [check["what_to_do"] for check in json.loads(done.stdout)["checks"] if check["section"] == "container"]
    assert any(says in step for step in steps)


def test_the_image_holds_no_setting_of_its_build_and_prints_its_profile(image: str) -> None:
    history = docker("history", "--no-trunc", "--format", "{{.CreatedBy}}", image).stdout
    assert not re.search(r"PIP_|UV_|SSL_CERT_FILE|https?://", history)
    found = json.loads(docker("image", "inspect", image).stdout)[0]["Config"]
    assert found["User"] == "faaspot"
    assert not [each for each in found["Env"] if each.startswith(("PIP_", "UV_"))]
    printed = docker("run", "--rm", image, "python3", "-m", "faaspot_runner.sandbox.profile").stdout
    assert printed == (ROOT / "deploy" / "seccomp.json").read_text()


# ---------------------------------------------------------------- in parts


@pytest.fixture
def project(image: str) -> Iterator[Project]:
    """compose.yaml, ready to start: with secrets, networks, volumes, and an index that the spot reaches."""
    with servers_image() as servers, tempfile.TemporaryDirectory(prefix="faaspot-e2e-") as directory:
        for name in ("admin-token", "redis-password", "database-password"):
            (Path(directory) / name).write_text(secrets.token_hex(32))
        images = {"FAASPOT_IMAGE": image, "FAASPOT_REDIS_IMAGE": servers, "FAASPOT_POSTGRES_IMAGE": servers}
        (door,) = free_ports(1)
        ports = {"FAASPOT_PUBLISH": "127.0.0.1:0", "FAASPOT_DOOR_PUBLISH": "127.0.0.1", "FAASPOT_DOOR_PORT": str(door)}
        made = Project(name=NAME, variables={**images, **ports}, secrets=Path(directory), profiles=("hosts",))
        try:
            made.furnish()
            with greetings(gateway(made.network("packages"))) as index:
                made.environment = {"spot": {"UV_DEFAULT_INDEX": index.url}}
                yield made
        finally:
            made.remove()


def test_the_parts_of_compose_are_a_platform(project: Project) -> None:
    project.up()
    project.healthy("api")
    token = (project.secrets / "admin-token").read_text()
    api, spot = project.container("api"), project.container("spot")
    platform = Platform(setup="root", home=Path("/"), url=f"http://127.0.0.1:{port(api)}", token=token)
    eventually(lambda: platform.call("GET", "spots/").json, 30, "the spot has registered")
    check_function(platform)
    check_secrets(project)
    check_host(platform)
    seen = docker("exec", api, "find", "/var/lib/faaspot", "/var/lib/faaspot-spot", "-name", "spot.*").stdout.split()
    assert seen == ["/var/lib/faaspot/keys/spot.pub"], "the private key is the spot's alone"
    assert docker("exec", spot, "touch", "/mnt/api/blobs/x", check=False).returncode != 0
    look = "import socket; socket.getaddrinfo('postgres', 5432)"
    assert docker("exec", spot, "python3", "-c", look, check=False).returncode != 0, "no way to the database"
    codes = project.stop()
    assert {name: codes[name] for name in ("api", "recorder", "spot", "door")} == {
        "api": 0,
        "recorder": 0,
        "spot": 0,
        "door": 0,
    }


def check_host(platform: Platform) -> None:
    """Another host joins through the door, which a restart of Redis does not close; the function runs there, too."""
    with tempfile.TemporaryDirectory(prefix="faaspot-e2e-") as home:
        words = [platform.command, "spots", "join", platform.url, "--token", platform.token, "--ip", "10.9.9.9"]
        kept = {name: value for name, value in os.environ.items() if not name.startswith("FAASPOT_")}
        joined = subprocess.Popen([*words, "--data-dir", f"{home}/spot"], stdin=subprocess.DEVNULL, env=kept)
        try:
            eventually(lambda: status(platform, "10.9.9.9") == "online", 40, "the host is a spot")
            assert platform.call("PATCH", "spots/127.0.0.1", {"draining": True}).status == 200
            eventually(lambda: status(platform, "127.0.0.1") == "draining", 10, "it drains")
            platform.deploy("there", "def main(args, context):\n    return args\n")
            answer = platform.run("there", {"n": 3})
            assert answer.json == {"n": 3}
            assert platform.record(answer.headers["Execution-Id"])["spot"] == "10.9.9.9"
        finally:
            joined.terminate()
            assert joined.wait(60) == 0


def status(platform: Platform, ip: str) -> str:
    answer = platform.call("GET", f"spots/{ip}")
    return str(answer.json["status"]) if answer.status == 200 else "unknown"


def check_secrets(project: Project) -> None:
    """No secret stands where the engine or a process list shows it."""
    texts = {path.name: path.read_text() for path in project.secrets.iterdir()}
    shown = [json.dumps(inspect(project.container(name))) for name in project.services]
    running = [name for name in project.services if name != "prepare"]
    shown += [docker("top", project.container(name), "-eo", "pid,args").stdout for name in running]
    shown.append(project.logs())
    assert [name for name, text in texts.items() if any(text in each for each in shown)] == []
